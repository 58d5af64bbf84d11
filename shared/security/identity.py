"""Device identities: certificates of a trusted CA.

Promise: an identity that comes out is a certificate which chains to a trusted CA, is valid now, is no CA
itself, and may be used by a client; or one that only has expired, and then it says so. One certificate has
one fingerprint, in any form in which it is written. Its enrollment is judged by its binding.

Device certificates have no SAN and often an empty subject, so the verifier's rules for web servers are
switched off for them (not for the CAs), and the extended key usage is checked here.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import structlog
from asn1crypto import pem
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.errors import BadRequest, Misconfigured
from shared.domain.identity import DeviceCertificate
from shared.ports.clock import Clock
from shared.security.asn1.ber import Unreadable
from shared.security.certificates.lenient import (
    UNREADABLE,
    AnyCertificate,
    LooseCertificate,
    load_certificate,
    load_whole,
    subject_of,
)
from shared.security.certificates.names import rfc4514
from shared.security.certificates.public_keys import LARGEST_CERTIFICATE, objection, weak_bits
from shared.security.chains import Chains, NotTrusted
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

_ECDSA = frozenset(
    oid for name, oid in vars(SignatureAlgorithmOID).items() if name.startswith("ECDSA_")
)

REMEMBERED = 16_384
"""Certificates whose chain was found good; each costs about 500 bytes."""
REFUSALS_REMEMBERED = 4096
"""Certificates, with all that came with them, that no time will make good; each about 300 bytes."""
LONGEST_SUBJECT = 1024


class WeakKeys:
    """Lets in RSA keys under 2048 bits that a CA of MDM_DEVICE_CA vouches for, since Apple's SCEP payload
    asks for 1024 bits where a profile does not say. Each is logged and counted."""

    def __init__(self, authorities: Sequence[AnyCertificate], metrics: Metrics) -> None:
        self._authorities = frozenset(authorities)
        self._metrics = metrics

    def lets_in(self, bits: int, authority: AnyCertificate, fingerprint: str) -> bool:
        if authority not in self._authorities:
            return False
        self._metrics.weak_device_keys.inc()
        log.warning("weak_device_key", bits=bits, certificate=fingerprint)
        return True


class DeviceIdentities:
    """Judges device certificates against a fixed set of CA certificates (roots and intermediates). Safe
    for several threads. Without `weak`, keys under 2048 bits are refused."""

    def __init__(
        self, trust: Sequence[AnyCertificate], clock: Clock, weak: WeakKeys | None = None
    ) -> None:
        self._chains = Chains(trust)
        self._trusted = frozenset(fingerprint_of(_der(c)) for c in trust)
        self._clock = clock
        self._weak = weak
        self._judged: BoundedCache[bytes, DeviceCertificate] = BoundedCache(REMEMBERED)
        self._refused: BoundedCache[bytes, str] = BoundedCache(REFUSALS_REMEMBERED)

    def identify(self, certificate: bytes, intermediates: Sequence[bytes] = ()) -> str:
        """The fingerprint (SHA-256 of the DER, hex) of a certificate that is good now, or BadRequest."""
        known = self.examine(certificate, intermediates)
        if known.is_expired:
            raise BadRequest("device certificate: expired")
        return known.fingerprint

    def knows(self, certificate: bytes) -> bool:
        """True if `examine` answers from memory that this certificate is good, or expired."""
        known = self._judged.get(hashlib.sha256(certificate).digest())
        return known is not None and _still_holds(known, self._clock.now())

    def examine(self, certificate: bytes, intermediates: Sequence[bytes] = ()) -> DeviceCertificate:
        """A good certificate, or one that only has expired; BadRequest for any other. The chain is
        remembered, within the validity of all its certificates. So is a refusal that no time will change, by
        all the certificates that came together."""
        digest, now = hashlib.sha256(certificate).digest(), self._clock.now()
        known = self._judged.get(digest)
        if known is not None and _still_holds(known, now):
            return known
        others = (hashlib.sha256(each).digest() for each in intermediates)
        together = hashlib.sha256(b"".join((digest, *others))).digest()
        if (why := self._refused.get(together)) is not None:
            raise BadRequest(why)
        try:
            known = self._judge(certificate, intermediates, now)
        except NotTrusted as refusal:
            why = f"device certificate: {refusal}"
            if refusal.is_final:
                self._refused.put(together, why)
            raise BadRequest(why) from None
        self._judged.put(digest, known)
        return known

    def _judge(
        self, der: bytes, intermediates: Sequence[bytes], now: datetime
    ) -> DeviceCertificate:
        if len(der) > LARGEST_CERTIFICATE:
            raise NotTrusted(f"over {LARGEST_CERTIFICATE} bytes")
        try:
            leaf = load_whole(der)
            fingerprint = _fingerprint(leaf)
            if fingerprint in self._trusted:
                raise NotTrusted("not one of a trusted CA")
            # Bits behind the end of the signature are covered by nothing.
            if not _der(leaf).endswith(b"\0" + leaf.signature):
                raise NotTrusted("is not in DER")
            if (unusual := objection(leaf.public_key())) is not None:
                raise NotTrusted(unusual)
            _refuse_other_purposes(leaf)
            if now < leaf.not_valid_before_utc:
                raise NotTrusted("not valid yet", is_final=False)
            is_expired = now > leaf.not_valid_after_utc
            # An expired one must have been good to its end.
            moment = leaf.not_valid_after_utc if is_expired else now
            chain = self._chains.build(leaf, intermediates, moment)
            self._refuse_weak_key(leaf, chain[-1], fingerprint)
            return DeviceCertificate(
                fingerprint=fingerprint,
                subject=rfc4514(subject_of(leaf))[:LONGEST_SUBJECT],
                serial=f"{leaf.serial_number:x}",
                not_before=max(c.not_valid_before_utc for c in chain),
                not_after=min(c.not_valid_after_utc for c in chain),
                is_expired=is_expired,
            )
        except Unreadable as exc:
            raise NotTrusted(f"cannot be read: {exc}") from None
        except UNREADABLE:
            raise NotTrusted("cannot be read") from None

    def _refuse_weak_key(
        self, leaf: AnyCertificate, authority: AnyCertificate, fingerprint: str
    ) -> None:
        bits = weak_bits(leaf.public_key())
        if bits is None or (self._weak and self._weak.lets_in(bits, authority, fingerprint)):
            return
        raise NotTrusted(f"an RSA key of {bits} bits, and not from a CA of MDM_DEVICE_CA")


def _still_holds(known: DeviceCertificate, now: datetime) -> bool:
    assert known.not_before is not None
    assert known.not_after is not None
    if known.is_expired:
        return now > known.not_after
    return known.not_before <= now <= known.not_after


def fingerprint_of(der: bytes) -> str:
    """SHA-256 in hex of a certificate's DER; of its signed part (RFC 5280's TBSCertificate) where it is not
    strict DER, or an ECDSA key signed it: one such signature can be made into a second one without the key,
    and so into a certificate that was never seen. Raises ValueError for one that cannot be read."""
    return _fingerprint(load_whole(der))


def _fingerprint(certificate: AnyCertificate) -> str:
    # The name of the algorithm, since the library cannot always say which hash it is with.
    has_one_form = (
        isinstance(certificate, x509.Certificate)
        and certificate.signature_algorithm_oid not in _ECDSA
    )
    known_by = _der(certificate) if has_one_form else certificate.tbs_certificate_bytes
    return hashlib.sha256(known_by).hexdigest()


def described(der: bytes) -> DeviceCertificate:
    """The statements of an unchecked certificate. Raises BadRequest."""
    try:
        certificate = load_whole(der)
        subject = rfc4514(subject_of(certificate))[:LONGEST_SUBJECT]
        return DeviceCertificate(_fingerprint(certificate), subject)
    except UNREADABLE:
        raise BadRequest("device certificate: cannot be read") from None


def load_trust(bundle: bytes) -> list[AnyCertificate]:
    """The CA certificates of a PEM bundle (MDM_DEVICE_CA), or Misconfigured."""
    with suppress(ValueError):
        return list(x509.load_pem_x509_certificates(bundle))
    try:
        blocks = list(pem.unarmor(bundle, multiple=True))
        found = [load_certificate(der) for kind, _, der in blocks if kind == "CERTIFICATE"]
    except UNREADABLE as exc:
        raise Misconfigured("MDM_DEVICE_CA holds no readable PEM certificates") from exc
    if not found:
        raise Misconfigured("MDM_DEVICE_CA holds no PEM certificate")
    return found


def _der(certificate: AnyCertificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _refuse_other_purposes(leaf: AnyCertificate) -> None:
    """A CA, or a certificate that was made for something else (a server's, say), is no device."""
    if isinstance(leaf, LooseCertificate):
        if leaf.authority[0]:
            raise NotTrusted("is a CA")
        if not leaf.is_for_clients:
            raise NotTrusted("not made for clients")
        return
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise NotTrusted("is a CA")
        if isinstance(value, x509.ExtendedKeyUsage) and not (
            ExtendedKeyUsageOID.CLIENT_AUTH in value
            or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in value
        ):
            raise NotTrusted("not made for clients")
