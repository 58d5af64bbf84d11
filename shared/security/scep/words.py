"""SCEP's words (RFC 8894 section 3.2.1): message types, failures, digests, and the names of attributes."""

from enum import StrEnum

from shared.domain.errors import Refused
from shared.telemetry.metrics import ScepRefusal

TRANSACTION_ID = "2.16.840.1.113733.1.9.7"
MESSAGE_TYPE = "2.16.840.1.113733.1.9.2"
PKI_STATUS = "2.16.840.1.113733.1.9.3"
FAIL_INFO = "2.16.840.1.113733.1.9.4"
SENDER_NONCE = "2.16.840.1.113733.1.9.5"
RECIPIENT_NONCE = "2.16.840.1.113733.1.9.6"


class MessageType(StrEnum):
    CERT_REP = "3"
    RENEWAL_REQ = "17"
    PKCS_REQ = "19"
    CERT_POLL = "20"
    GET_CERT = "21"
    GET_CRL = "22"


class PkiStatus(StrEnum):
    SUCCESS = "0"
    FAILURE = "2"


class FailInfo(StrEnum):
    BAD_ALG = "0"
    BAD_MESSAGE_CHECK = "1"
    BAD_REQUEST = "2"
    BAD_TIME = "3"
    BAD_CERT_ID = "4"


_FAIL_INFO = {
    ScepRefusal.ALGORITHM: FailInfo.BAD_ALG,
    ScepRefusal.MESSAGE: FailInfo.BAD_MESSAGE_CHECK,
    ScepRefusal.REQUEST: FailInfo.BAD_REQUEST,
    ScepRefusal.CHALLENGE: FailInfo.BAD_REQUEST,
    ScepRefusal.TRANSACTION: FailInfo.BAD_REQUEST,
    ScepRefusal.LIMIT: FailInfo.BAD_REQUEST,
    ScepRefusal.TIME: FailInfo.BAD_TIME,
    ScepRefusal.CERTIFICATE: FailInfo.BAD_CERT_ID,
}


class ScepRefused(Refused):
    """A readable message that gets no certificate; `str()` is for the log, never for the client."""

    def __init__(self, refusal: ScepRefusal, why: str) -> None:
        super().__init__(why)
        self.refusal = refusal
        self.fail_info = _FAIL_INFO[refusal]


def allowed_digests(*, allow_legacy: bool) -> set[str]:
    """The digests (in asn1crypto's names, and cryptography's) that may be signed."""
    return {"sha256", "sha384", "sha512"} | ({"sha1"} if allow_legacy else set())
