"""Device identities: is this certificate one of a CA that we trust?

Promise: an identity that comes out is a certificate which chains to a trusted CA, is valid now, is no
CA itself, and may be used by a client; or one of which only the time is over, and then it says so. One
certificate has one fingerprint, however its holder writes it. Which enrollment it belongs to is judged
by its binding.

Device certificates have no SAN and often an empty subject, so the verifier's rules for web servers are
switched off for them (not for the CAs), and the extended key usage is checked here.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from shared.domain.errors import BadRequest, Misconfigured
from shared.domain.identity import DeviceCertificate
from shared.ports.clock import Clock
from shared.security.bounded_cache import BoundedCache

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library may raise for a certificate of a stranger, while reading it or later."""

_ECDSA = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA1,
        SignatureAlgorithmOID.ECDSA_WITH_SHA224,
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.ECDSA_WITH_SHA3_224,
        SignatureAlgorithmOID.ECDSA_WITH_SHA3_256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA3_384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA3_512,
    }
)

REMEMBERED = 16_384
"""Certificates whose chain was found good; each costs about 500 bytes."""
LONGEST_SUBJECT = 1024


class DeviceIdentities:
    """Judges device certificates against a fixed set of CA certificates (roots and intermediates)."""

    def __init__(self, trust: Sequence[x509.Certificate], clock: Clock) -> None:
        self._store = verification.Store(list(trust)) if trust else None
        self._trusted = frozenset(fingerprint_of(_der(c)) for c in trust)
        self._clock = clock
        self._judged: BoundedCache[bytes, DeviceCertificate] = BoundedCache(REMEMBERED)

    def identify(self, certificate: bytes, intermediates: Sequence[bytes] = ()) -> str:
        """The fingerprint (SHA-256 of the DER, hex) of a certificate that is good now, or BadRequest."""
        known = self.examine(certificate, intermediates)
        if known.is_expired:
            raise BadRequest("device certificate: expired")
        return known.fingerprint

    def examine(self, certificate: bytes, intermediates: Sequence[bytes] = ()) -> DeviceCertificate:
        """A good certificate, or one of which only the time is over; BadRequest for any other.

        The chain is remembered, within the validity of all its certificates.
        """
        digest = hashlib.sha256(certificate).digest()
        now = self._clock.now()
        known = self._judged.get(digest)
        if known is None or not _stands(known, now):
            known = self._judge(certificate, intermediates, now)
            self._judged.put(digest, known)
        return known

    def _judge(
        self, der: bytes, intermediates: Sequence[bytes], now: datetime
    ) -> DeviceCertificate:
        try:
            leaf = x509.load_der_x509_certificate(der)
            fingerprint = _fingerprint(leaf, der)
            if self._store is None or fingerprint in self._trusted:
                raise BadRequest("device certificate: not one of a trusted CA")
            # Bits behind the end of the signature are covered by nothing.
            if not der.endswith(b"\0" + leaf.signature):
                raise BadRequest("device certificate: is not in DER")
            _refuse_other_purposes(leaf)
            is_expired = now > leaf.not_valid_after_utc
            # Of an expired one we ask whether it was good to its end.
            moment = leaf.not_valid_after_utc if is_expired else now
            chain = self._chain(leaf, _certificates(intermediates), self._store, moment)
            return DeviceCertificate(
                fingerprint=fingerprint,
                subject=leaf.subject.rfc4514_string()[:LONGEST_SUBJECT],
                serial=f"{leaf.serial_number:x}",
                not_before=max(c.not_valid_before_utc for c in chain),
                not_after=min(c.not_valid_after_utc for c in chain),
                is_expired=is_expired,
            )
        except UNREADABLE:
            raise BadRequest("device certificate: cannot be read") from None

    @staticmethod
    def _chain(
        leaf: x509.Certificate,
        intermediates: list[x509.Certificate],
        store: verification.Store,
        now: datetime,
    ) -> list[x509.Certificate]:
        policy = verification.PolicyBuilder().store(store).time(now)
        policy = policy.extension_policies(
            ca_policy=_authority_policy(), ee_policy=verification.ExtensionPolicy.permit_all()
        )
        try:
            return policy.build_client_verifier().verify(leaf, intermediates).chain
        except verification.VerificationError:
            raise BadRequest(f"device certificate: {_why_not(leaf, now)}") from None


def _stands(known: DeviceCertificate, now: datetime) -> bool:
    """Whether what was found out at another time is true now."""
    assert known.not_before is not None
    assert known.not_after is not None
    if known.is_expired:
        return now > known.not_after
    return known.not_before <= now <= known.not_after


def _authority_policy() -> verification.ExtensionPolicy:
    """The rules for CAs of the web, but for what the private CAs of this world leave out.

    A CA that `openssl req -x509` makes has no key usage; others mark nothing as critical, or name
    their issuer by serial number. That it is a CA must still be written in it.
    """
    anyhow = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.webpki_defaults_ca()
        .require_present(x509.BasicConstraints, anyhow, _is_authority)
        .may_be_present(x509.KeyUsage, anyhow, _may_sign_certificates)
        .may_be_present(x509.AuthorityKeyIdentifier, anyhow, None)
    )


def _is_authority(
    _policy: verification.Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints
) -> None:
    if not constraints.ca:
        raise ValueError("not a CA")


def _may_sign_certificates(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not for signing certificates")


def fingerprint_of(der: bytes) -> str:
    """How a certificate is known to us: SHA-256 in hex, of its DER, or of its signed part (RFC 5280's
    TBSCertificate) where an ECDSA key signed it: from one such signature anybody can make a second
    one, and with it a certificate that was never seen. Raises ValueError for one that cannot be read."""
    return _fingerprint(x509.load_der_x509_certificate(der), der)


def _fingerprint(certificate: x509.Certificate, der: bytes) -> str:
    # The name of the algorithm, since the library cannot always say which hash it is with.
    has_two_forms = certificate.signature_algorithm_oid in _ECDSA
    return hashlib.sha256(certificate.tbs_certificate_bytes if has_two_forms else der).hexdigest()


def load_trust(pem: bytes) -> list[x509.Certificate]:
    """The CA certificates of a PEM bundle (MDM_DEVICE_CA), or Misconfigured."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise Misconfigured("MDM_DEVICE_CA holds no readable PEM certificates") from exc


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _certificates(ders: Sequence[bytes]) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in ders]


def _refuse_other_purposes(leaf: x509.Certificate) -> None:
    """A CA, or a certificate that was made for something else (a server's, say), is no device."""
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise BadRequest("device certificate: is a CA")
        if isinstance(value, x509.ExtendedKeyUsage) and not (
            ExtendedKeyUsageOID.CLIENT_AUTH in value
            or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in value
        ):
            raise BadRequest("device certificate: not made for clients")


def _why_not(leaf: x509.Certificate, now: datetime) -> str:
    if now < leaf.not_valid_before_utc:
        return "not valid yet"
    return "not one of a trusted CA"
