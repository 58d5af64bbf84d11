"""The push topic in enrollment profiles, under which devices enroll.

Promise: of certificates installed by API it is the one whose topic was chosen last, within
`FRESH` of the choice on every replica; else that of the first file of MDM_PUSH_CERT.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from shared.domain.errors import BadRequest, Misconfigured
from shared.ports.certificates import PushCertificates, TopicVersion
from shared.ports.clock import Clock
from shared.security.certificates.lenient import UNREADABLE
from shared.security.push_certificate import topic_of
from shared.settings.values import read_file

FRESH = timedelta(seconds=5)


class TopicOfFiles:
    """PushTopics by MDM_PUSH_CERT: the topic of the first certificate."""

    def __init__(self, topic: str | None = None) -> None:
        self.topic = topic

    @classmethod
    def load(cls, files: tuple[Path, ...]) -> "TopicOfFiles":
        """By the first file, if there is one; Misconfigured where it holds no push certificate."""
        if not files:
            return cls()
        file = files[0]
        try:
            return cls(topic_of(x509.load_pem_x509_certificate(read_file("MDM_PUSH_CERT", file))))
        except BadRequest as exc:
            raise Misconfigured(f"MDM_PUSH_CERT: {file} {exc.faults[0].expected}") from None
        except UNREADABLE:
            raise Misconfigured(f"MDM_PUSH_CERT: {file} holds no PEM certificate") from None

    async def current(self) -> str | None:
        return self.topic


class CurrentTopic:
    """PushTopics by what is installed, then by the files. Raises StoreUnavailable."""

    def __init__(self, installed: PushCertificates, files: TopicOfFiles, clock: Clock) -> None:
        self._installed = installed
        self._files = files
        self._clock = clock
        self._known: str | None = None
        self._read_at = float("-inf")

    async def current(self) -> str | None:
        now = self._clock.monotonic()
        if now - self._read_at >= FRESH.total_seconds():
            self._known = default_topic(await self._installed.versions(), self._files.topic)
            self._read_at = now
        return self._known


def default_topic(installed: Iterable[TopicVersion], of_files: str | None) -> str | None:
    """`of_files`: the topic of the first file, None where there is none."""
    by_choice = max(installed, key=lambda version: version.chosen or "", default=None)
    if by_choice is not None and (by_choice.chosen or of_files is None):
        return by_choice.topic
    return of_files
