"""Push certificates that were installed by API (owner: push; checkin reads which topic is current)."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class InstalledPair:
    """A certificate, PEM, maybe with its chain, and its private key (PKCS#8, PEM, in clear)."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    installed_at: datetime


@dataclass(frozen=True, slots=True)
class TopicVersion:
    """What shows that a topic has changed. `chosen` is an id made when it became the one that devices
    are to enroll under: the latest counts; None: it only renewed what was there already."""

    topic: str
    revision: str
    chosen: str | None = None


@dataclass(frozen=True, slots=True)
class InstalledTopic:
    """The certificates of one topic. `before` is there until the first push that APNs took with
    `newest`. A revision is never used twice."""

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
        """Raises CannotDecrypt when its keys are encrypted with a key that we do not have."""

    async def put(self, wanted: InstalledTopic, replaces: str | None) -> bool:
        """Store the topic on condition that its revision is still `replaces` (None: that it is not
        there). False: it was overtaken, and nothing has changed."""

    async def retire(self, topic: str, revision: str, as_revision: str) -> bool:
        """Forget `before` on condition of the revision; False: overtaken."""

    async def remove(self, topic: str, revision: str) -> bool:
        """Forget the topic on condition of the revision; False: overtaken."""


class EnrolledTopics(Protocol):
    async def count(self) -> dict[str, int]:
        """Enrolled devices by the push topic that they enrolled under; those without one are left
        out. It looks at every enrollment: for rare requests of an operator."""


class PushTopics(Protocol):
    async def current(self) -> str | None:
        """The topic that devices are to enroll under; None where there is no push certificate."""
