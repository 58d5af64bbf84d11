"""Our CA, SCEP challenges, issued certificates (owner: checkin) and push certificates (owner: push)."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from shared.domain.identity import ReportedExpiry
from shared.domain.outbox import OutboxEvent


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """Our CA as it is kept: certificate and private key, each in PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


class AuthorityStore(Protocol):
    async def load(self) -> StoredAuthority | None: ...

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        """Store it if there is none yet; returns the stored one, the same to every caller."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Good for one certificate, until `expires_at`. `digest` is the SHA-256 (hex) of the secret, which is
    kept nowhere. `udid` and `serial_number` name its device; without them it is for any. `renews` is the
    fingerprint of the certificate that the new one is to follow."""

    digest: str
    expires_at: datetime
    udid: str | None = None
    serial_number: str | None = None
    renews: str | None = None


class Challenges(Protocol):
    async def create(self, challenge: Challenge) -> None:
        """Store an unused challenge; one that is stored already stays as it is."""

    async def use(self, digest: str, by: str, now: datetime) -> Challenge | None:
        """Give the challenge to the transaction `by`, once for all replicas; the same transaction gets it
        again. None: it is unknown, expired, or used by another transaction."""

    async def take(self, challenge: Challenge, by: str) -> bool:
        """`use` for a challenge that is not stored: store it as used by `by`. The caller knows that it has
        not expired."""

    async def user_of(self, digest: str) -> str | None:
        """The transaction that used it, also after it expired; None: unused or unknown."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One certificate, and the challenge or renewal that allowed it.

    `transaction` identifies the request, and has one certificate. `fingerprint` is the SHA-256 of the
    certificate, `public_key` that of its key, `serial` its serial number, all in hex. `udid` and
    `serial_number` are what the challenge was bound to (never what the client says of itself), or inherited
    at a renewal. `renewed_from` is the fingerprint of the certificate that it follows."""

    transaction: str
    fingerprint: str
    serial: str
    certificate: bytes = field(repr=False)
    subject: str
    public_key: str
    issued_at: datetime
    not_after: datetime
    challenge: str | None = None
    udid: str | None = None
    serial_number: str | None = None
    renewed_from: str | None = None


class IssuedCertificates(Protocol):
    async def add(self, issued: IssuedCertificate) -> bool:
        """Record it. False: its transaction has one (this or another), or its serial number is taken; then
        this one must not be issued."""

    async def of_transaction(self, transaction: str) -> IssuedCertificate | None: ...

    async def by_fingerprint(self, fingerprints: Collection[str]) -> dict[str, IssuedCertificate]:
        """The certificates with these fingerprints that SCEP issued."""

    async def renewals_of(self, fingerprint: str) -> list[IssuedCertificate]:
        """The certificates issued to follow this one, the earliest first."""


@dataclass(frozen=True, slots=True)
class InstalledPair:
    """A certificate, PEM, maybe with its chain, and its private key (PKCS#8, PEM, in clear)."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    installed_at: datetime


@dataclass(frozen=True, slots=True)
class TopicVersion:
    """The version of a topic. `chosen` is an id made when it became the topic for new enrollments: the
    latest counts; None: it only renewed the certificate."""

    topic: str
    revision: str
    chosen: str | None = None


@dataclass(frozen=True, slots=True)
class InstalledTopic:
    """`before` is there until APNs took a first push with `newest`. A revision is never used twice."""

    version: TopicVersion
    newest: InstalledPair
    before: InstalledPair | None = None

    @property
    def topic(self) -> str:
        return self.version.topic


class PushCertificates(Protocol):
    async def versions(self) -> list[TopicVersion]:
        """All topics, by name; cheap: no certificate is read."""

    async def load(self, topic: str) -> InstalledTopic | None:
        """Raises CannotDecrypt where its keys are encrypted with a key that we lack."""

    async def put(self, wanted: InstalledTopic, replaces: str | None) -> bool:
        """Store the topic on condition that its revision is still `replaces` (None: that it is absent).
        False: overtaken, nothing has changed."""

    async def retire(self, topic: str, revision: str, as_revision: str) -> bool:
        """Forget `before` on condition of the revision; False: overtaken."""

    async def remove(self, topic: str, revision: str) -> bool:
        """Forget the topic on condition of the revision; False: overtaken."""


@dataclass(frozen=True, slots=True)
class PushExpiry:
    """The latest event about the end of a topic's certificate; `event` is there until it is safe."""

    topic: str
    reported: ReportedExpiry
    event: OutboxEvent | None = None


class PushExpiries(Protocol):
    async def all(self) -> list[PushExpiry]:
        """At most one of each topic."""

    async def report(self, expiry: PushExpiry, seen: PushExpiry | None) -> bool:
        """Store it with its event, on condition that the one of its topic is still `seen`, whose event is
        safe. False: overtaken."""

    async def published(self, expiry: PushExpiry) -> None:
        """Forget an event that is safe."""


class EnrolledTopics(Protocol):
    async def count(self) -> dict[str, int]:
        """Enrolled devices by push topic. It reads every enrollment: for rare requests of an operator."""


class PushTopics(Protocol):
    async def current(self) -> str | None:
        """The topic for new enrollments; None where there is no push certificate."""
