"""Our SCEP server (RFC 8894): a message in, a signed answer out.

Promises: a message that can be read is answered, with a failInfo where it is refused; any other one is a
BadRequest. A refusal leaves nothing in the store. Every replica answers alike.
"""

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from services.checkin.scep.issuing import Asker, Issuing
from shared.concurrency.heavy_work import HeavyWork
from shared.security.authority import Authority
from shared.security.identity import fingerprint_of
from shared.security.scep.answer import failure, success
from shared.security.scep.envelope import open_envelope
from shared.security.scep.message import PkiMessage, kind_of, read_pki_message, signer_certificate
from shared.security.scep.request import (
    CertificateRequest,
    hash_of,
    read_certificate_request,
    strong_rsa,
)
from shared.security.scep.words import MessageType, ScepRefused
from shared.telemetry.metrics import Metrics, ScepRefusal

log = structlog.get_logger()

_LEGACY_CAPABILITIES = frozenset({"SHA-1", "DES3"})
_CAPABILITIES = (
    "Renewal",
    "SHA-1",
    "SHA-256",
    "AES",
    "DES3",
    "SCEPStandard",
    "POSTPKIOperation",
)


class ScepServer:
    """Answers SCEP's operations with one CA. `allow_legacy`: SHA-1, DES and 3DES are taken too, and
    enrollments that are signed with another key than the one asked for."""

    def __init__(
        self,
        authority: Authority,
        issuing: Issuing,
        work: HeavyWork,
        metrics: Metrics,
        *,
        allow_legacy: bool,
    ) -> None:
        self._authority = authority
        self._issuing = issuing
        self._work = work
        self._metrics = metrics
        self._allow_legacy = allow_legacy

    def capabilities(self) -> str:
        dropped = frozenset() if self._allow_legacy else _LEGACY_CAPABILITIES
        return "".join(f"{word}\n" for word in _CAPABILITIES if word not in dropped)

    def ca_certificate(self) -> bytes:
        return self._authority.certificate.public_bytes(Encoding.DER)

    async def operate(self, encoded: bytes) -> bytes:
        """The answer to a PKIOperation. BadRequest: it is no SCEP message; Unavailable: not now."""
        message, opened = await self._work.do(self._begin, encoded)
        try:
            if isinstance(opened, ScepRefused):
                raise opened
            asker, request = opened
            if request is None:
                given = await self._issuing.poll(message.transaction_id, asker)
            elif message.kind == MessageType.RENEWAL_REQ:
                given = await self._issuing.renew(message.transaction_id, request, asker)
            else:
                given = await self._issuing.enroll(message.transaction_id, request)
        except ScepRefused as refused:
            self._metrics.scep_refused.labels(refused.refusal).inc()
            log.info("scep_refused", reason=refused.refusal.value, why=str(refused))
            return await self._work.do(failure, message, refused.fail_info, self._authority)
        self._metrics.scep_issued.labels(given.how).inc()
        log.info(
            "scep_issued",
            kind=given.how.value,
            certificate=given.issued.fingerprint,
            udid=given.issued.udid,
            renewed_from=given.issued.renewed_from,
        )
        return await self._work.do(
            success, message, given.issued.certificate, asker.certificate, self._authority
        )

    def _begin(
        self, encoded: bytes
    ) -> tuple[PkiMessage, tuple[Asker, CertificateRequest | None] | ScepRefused]:
        """All of the arithmetic that needs no decision, in one go; the refusal needs its message."""
        message = read_pki_message(encoded)
        try:
            return message, self._open(message)
        except ScepRefused as refused:
            return message, refused

    def _open(self, message: PkiMessage) -> tuple[Asker, CertificateRequest | None]:
        """Everything about a message that needs no store. Order: signature, envelope, request. The request is
        None for the certificate of a transaction that ended."""
        kind = kind_of(message)
        asker = _asker(signer_certificate(message, allow_legacy=self._allow_legacy))
        if kind is MessageType.CERT_POLL:
            return asker, None
        if kind not in {MessageType.PKCS_REQ, MessageType.RENEWAL_REQ}:
            raise ScepRefused(ScepRefusal.REQUEST, "a message type that we do not serve")
        content = open_envelope(message.content, self._authority, allow_legacy=self._allow_legacy)
        # An enrolling client should sign with the key that it asks for (RFC 8894, 2.3). Apple's devices do,
        # and so do micromdm's scepclient and sscep; mdmb, which simulates devices, signs with one made for
        # the moment. The challenge inside names the client, and the request is signed by its own key in any
        # case: the thief of a captured one gets a certificate for a key that he does not have.
        must_sign = kind is MessageType.PKCS_REQ and not self._allow_legacy
        signed_by = asker.key_hash if must_sign else None
        request = read_certificate_request(
            content, signed_by=signed_by, allow_legacy=self._allow_legacy
        )
        if request.subject == self._authority.certificate.subject:
            raise ScepRefused(ScepRefusal.REQUEST, "the subject is that of the CA")
        return asker, request


def _asker(der: bytes) -> Asker:
    """Raises ScepRefused for a key that an answer cannot be encrypted for."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        public_key = certificate.public_key()
    except Exception:  # noqa: BLE001 - bytes from outside: the library may trip over any of them
        raise ScepRefused(ScepRefusal.MESSAGE, "the signer's certificate cannot be read") from None
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise ScepRefused(ScepRefusal.ALGORITHM, "the signer's key is not RSA")
    return Asker(certificate, fingerprint_of(der), hash_of(strong_rsa(public_key)))
