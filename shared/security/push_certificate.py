"""MDM push certificates with their keys, as Apple's portal gives them (PEM), read and judged.

Promise: `read_pair` returns a certificate of one push topic with the private key that belongs to it, or
raises a BadRequest whose only fault has the path `cert`, `key` or `password`, and shows nothing of the key.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from shared.domain.errors import BadRequest, Fault, Misconfigured
from shared.ports.certificates import PushCertificates, TopicVersion
from shared.ports.clock import Clock
from shared.security.certificates.lenient import UNREADABLE
from shared.settings.values import read_file

TOPIC_PREFIX = "com.apple.mgmt"
RENEWAL = "renew it at identity.apple.com with the same Apple Account"
MOST_TOPIC = 200
"""Characters; Apple's have about 60."""
FRESH = timedelta(seconds=5)
"""A chosen topic counts on every replica after that time."""


@dataclass(frozen=True, slots=True)
class PushCertificate:
    """Lets us push to the devices of one topic (Apple: UID of the certificate's subject).
    `certificate_pem` begins with the certificate itself; its chain may follow. `key_pem` is PKCS#8 in clear.
    `serial_number` is in hex."""

    topic: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    fingerprint: str
    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate_pem).public_bytes(Encoding.DER)

    def remaining(self, now: datetime) -> timedelta:
        return self.not_after - now

    def has_expired(self, now: datetime) -> bool:
        return now >= self.not_after

    def must_be_valid(self, now: datetime) -> None:
        """Raises BadRequest outside its validity."""
        if self.has_expired(now):
            raise bad_pair("cert", f"expired at {self.not_after.isoformat()}; {RENEWAL}")
        if now < self.not_before:
            raise bad_pair("cert", f"is not valid yet: from {self.not_before.isoformat()} on")


def read_pair(
    certificate_pem: bytes, key_pem: bytes, password: bytes | None = None
) -> PushCertificate:
    """Keys may be PKCS#1, SEC 1 or PKCS#8, each encrypted or not (`password` is for those that are).
    Validity in time is not checked. Raises BadRequest."""
    try:
        certificates = x509.load_pem_x509_certificates(certificate_pem)
    except UNREADABLE:
        raise bad_pair("cert", "holds no PEM certificate") from None
    key, public = _key(key_pem, password)
    own = certificates[0]
    try:
        certified = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UNREADABLE:
        raise bad_pair("cert", "has an unusable public key") from None
    if certified != public:
        raise bad_pair("key", "is not the key of the certificate")
    return PushCertificate(
        topic=topic_of(own),
        serial_number=f"{own.serial_number:X}",
        not_before=own.not_valid_before_utc,
        not_after=own.not_valid_after_utc,
        fingerprint=own.fingerprint(hashes.SHA256()).hex(),
        certificate_pem=b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
        key_pem=key,
    )


def topic_of(certificate: x509.Certificate) -> str:
    """Raises BadRequest for a certificate that is none for MDM."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    except UNREADABLE:
        raise bad_pair("cert", "has a broken subject") from None
    topic = str(names[0].value) if len(names) == 1 else ""
    if not topic.startswith(TOPIC_PREFIX) or not topic.isprintable() or len(topic) > MOST_TOPIC:
        wanted = f"no UID {TOPIC_PREFIX}... in its subject"
        raise bad_pair("cert", f"is no MDM push certificate ({wanted})")
    return topic


def bad_pair(path: str, problem: str) -> BadRequest:
    return BadRequest(f"{path}: {problem}", [Fault(path, problem)])


def _key(pem: bytes, password: bytes | None) -> tuple[bytes, bytes]:
    """The private key as PKCS#8 and its public key. Causes are cut off: they may show the key."""
    is_encrypted = b"ENCRYPTED" in pem
    if is_encrypted and not password:
        raise bad_pair("key", "is encrypted: decrypt the file, or send its password")
    try:
        key = load_pem_private_key(pem, password if is_encrypted else None)
        return (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )
    except UNREADABLE:
        if is_encrypted:
            problem = "does not open the key (or it is encrypted in a way that we do not know)"
            raise bad_pair("password", problem) from None
        raise bad_pair("key", "holds no PEM private key") from None


def topic_of_file(file: Path) -> str:
    """The topic of the first certificate in a file of MDM_PUSH_CERT, or Misconfigured."""
    try:
        return topic_of(x509.load_pem_x509_certificate(read_file("MDM_PUSH_CERT", file)))
    except BadRequest as exc:
        raise Misconfigured(f"MDM_PUSH_CERT: {file} {exc.faults[0].expected}") from None
    except UNREADABLE:
        raise Misconfigured(f"MDM_PUSH_CERT: {file} holds no PEM certificate") from None


def default_topic(installed: Iterable[TopicVersion], of_file: str | None) -> str | None:
    """The topic for new enrollments: of certificates installed by API the one that was chosen last, else that
    of the first file."""
    by_choice = max(installed, key=lambda version: version.chosen or "", default=None)
    if by_choice is not None and (by_choice.chosen or of_file is None):
        return by_choice.topic
    return of_file


class CurrentTopic:
    """PushTopics by `default_topic`. Raises StoreUnavailable."""

    def __init__(self, installed: PushCertificates, of_file: str | None, clock: Clock) -> None:
        self._installed = installed
        self._of_file = of_file
        self._clock = clock
        self._known: str | None = None
        self._read_at = float("-inf")

    async def current(self) -> str | None:
        now = self._clock.monotonic()
        if now - self._read_at >= FRESH.total_seconds():
            self._known = default_topic(await self._installed.versions(), self._of_file)
            self._read_at = now
        return self._known
