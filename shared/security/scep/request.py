"""The certificate request (PKCS #10, RFC 2986) inside a SCEP message.

Promise: the sender holds the key that is asked for, and it is strong enough. Nothing that the request
says of its sender is believed: the subject is only carried over.
"""

import hashlib
from dataclasses import dataclass, field

from asn1crypto import csr as pkcs10
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.security.asn1 import ber, der
from shared.security.certificates.public_keys import PublicKey, check_signed, objection
from shared.security.scep.envelope import unopened
from shared.security.scep.words import ScepRefused, allowed_digests
from shared.telemetry.metrics import ScepRefusal

REQUESTED_SIZES = range(2048, 4096 + 1)
"""Bits of an RSA key that gets a certificate."""
SENDER_SIZES = range(2048, 8192 + 1)
"""Bits of an RSA key that sends a request: earlier versions gave certificates to keys of up to 8192."""
LONGEST_EXPONENT_CHECKED = 64
"""Bits of an RSA exponent up to which a signature costs little enough to be checked, before the refusal."""
LARGEST_REQUEST = 8 * 1024
"""Bytes; one for the largest key, with the largest subject, has about five thousand."""
LARGEST_SUBJECT = 2048
"""Bytes of a subject in DER."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A request whose signature is good. `key_hash` is the SHA-256 of the public key (hex)."""

    public_key: PublicKey
    key_hash: str
    subject: x509.Name
    challenge: str = field(repr=False)


def read_certificate_request(
    encoded: bytes, *, signed_by: str | None, allow_legacy: bool
) -> CertificateRequest:
    """Raises ScepRefused. `signed_by` is the hash of the key that must be the one asked for; None: any."""
    try:
        if len(encoded) > LARGEST_REQUEST:
            raise ValueError("too large")
        signed, bare = _without_attributes(encoded)
        request = x509.load_der_x509_csr(bare)
        public_key = request.public_key()
        _refuse_costly(public_key)
        check_signed(request, signed, public_key)
    except Exception:  # noqa: BLE001 - bytes from outside; an envelope that was meddled with looks so
        raise unopened() from None
    if signed_by not in {None, hash_of(public_key)}:
        raise unopened()
    try:
        hash_name = getattr(request.signature_hash_algorithm, "name", "")
        subject = request.subject
        subject_size = len(subject.public_bytes())
        challenge = _challenge(encoded)
    except Exception:  # noqa: BLE001 - bytes from outside, whose signature is good
        raise ScepRefused(ScepRefusal.REQUEST, "the certificate request cannot be read") from None
    if hash_name not in allowed_digests(allow_legacy=allow_legacy):
        raise ScepRefused(ScepRefusal.ALGORITHM, "the request's digest algorithm is not allowed")
    if subject_size > LARGEST_SUBJECT:
        raise ScepRefused(ScepRefusal.REQUEST, "the subject is too long")
    return CertificateRequest(_strong(public_key), hash_of(public_key), subject, challenge)


def _without_attributes(encoded: bytes) -> tuple[bytes, bytes]:
    """The signed part of a request, and the request as if it had no attributes: cryptography takes them in
    DER's order only, and clients in Go put the challenge behind the extensions. Raises ValueError."""
    signed, algorithm, signature = ber.children(ber.only(encoded, ber.SEQUENCE))
    version, subject, public_key, *attributes = (each.raw for each in ber.children(signed))
    if len(attributes) > 1:
        raise ValueError("not a certificate request")
    bare = der.sequence(version, subject, public_key, der.element(der.CONTEXT_0))
    return signed.raw, der.sequence(bare, algorithm.raw, signature.raw)


def hash_of(public_key: object) -> str:
    """SHA-256 (hex) of a public key's SubjectPublicKeyInfo; "" for one that is neither RSA nor EC."""
    if not isinstance(public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return ""
    encoded = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def _refuse_costly(public_key: object) -> None:
    """Check a signature by an odd key only where that costs little; then the answer names the refusal."""
    if not isinstance(public_key, rsa.RSAPublicKey):
        return
    exponent_bits = public_key.public_numbers().e.bit_length()
    if public_key.key_size > SENDER_SIZES[-1] or exponent_bits > LONGEST_EXPONENT_CHECKED:
        raise ValueError("an RSA key of no known client")


def strong_rsa(public_key: rsa.RSAPublicKey, sizes: range = SENDER_SIZES) -> rsa.RSAPublicKey:
    """The same key; raises ScepRefused for one that must not be certified, nor encrypted for."""
    if (why := objection(public_key, sizes)) is not None:
        raise ScepRefused(ScepRefusal.REQUEST, why)
    return public_key


def _strong(public_key: object) -> PublicKey:
    if isinstance(public_key, rsa.RSAPublicKey):
        return strong_rsa(public_key, REQUESTED_SIZES)
    if isinstance(public_key, ec.EllipticCurvePublicKey) and objection(public_key) is None:
        return public_key
    raise ScepRefused(ScepRefusal.ALGORITHM, "the key is of a kind that is not allowed")


def _challenge(encoded: bytes) -> str:
    """The challengePassword (RFC 2985, 5.4.1), empty where there is none."""
    request = pkcs10.CertificationRequest.load(encoded)["certification_request_info"]
    found = [
        str(value)
        for attribute in request["attributes"]
        if attribute["type"].native == "challenge_password"
        for value in attribute["values"].native
    ]
    return found[0] if len(found) == 1 else ""
