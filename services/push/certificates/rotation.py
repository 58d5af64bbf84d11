"""Keeps what this process pushes with equal to what is installed, without a restart.

Promises: a certificate that was installed or removed through any replica counts within seconds on
all of them; one that cannot be read here changes nothing, and is told of once; the certificate before
is forgotten once APNs has taken a push with the new one; whoever expires soon is told of every day.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import structlog

from services.push.certificates.store import CertificateBook, Installed, parsed
from services.push.certificates.tls import client_context, warn_of_expiry
from services.push.send.topics import Topics
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import BadRequest, CannotDecrypt
from shared.ports.certificates import PushCertificates, TopicVersion
from shared.ports.clock import Clock, Ids
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=3), after_failure=timedelta(seconds=3))
DAY = timedelta(days=1)


class Lines(Protocol):
    async def use(self, contexts: Mapping[str, ssl.SSLContext]) -> None: ...


@dataclass(frozen=True, slots=True)
class RotationParts:
    """`trusted`: CAs for APNs instead of the public ones."""

    installed: PushCertificates
    apns: Lines
    topics: Topics
    metrics: Metrics
    clock: Clock
    ids: Ids
    trusted: Path | None = None


class Rotation:
    """Fills the book from the store, again and again. `contexts` are those of the files, by the
    fingerprints of the certificates, as `apns` has them."""

    def __init__(
        self,
        book: CertificateBook,
        parts: RotationParts,
        contexts: Mapping[str, ssl.SSLContext],
    ) -> None:
        self._book = book
        self._parts = parts
        self._contexts = dict(contexts)
        self._has_looked = False
        self._warn_at = float("-inf")
        self._unusable: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self, loops: Loops) -> None:
        """Forever; what cannot be done now is done later."""
        await loops.keep_doing("rotation", self._once, PACE, waits="push_certificates_not_read")

    async def _once(self) -> None:
        now = self._parts.clock.monotonic()
        if now >= self._warn_at:
            self._warn()
            self._warn_at = now + DAY.total_seconds()
        await self.look()
        await self._retire()

    async def look(self) -> None:
        """Take what has changed. Raises StoreUnavailable."""
        async with self._one_at_a_time:  # so that nobody adopts what was read before the latest
            await self._look()

    async def _look(self) -> None:
        versions = {each.topic: each for each in await self._parts.installed.versions()}
        known = self._book.installed
        is_same = {topic: each.version for topic, each in known.items()} == versions
        if is_same and self._has_looked:
            return
        found: dict[str, Installed] = {}
        for topic, version in versions.items():
            there = known.get(topic)
            if there is None or there.version != version:
                there = await self._read(version) or there
            if there is not None:
                found[topic] = there
        await self._adopt(found)
        self._has_looked = True

    async def _read(self, version: TopicVersion) -> Installed | None:
        """None: it went meanwhile, or is of no use here."""
        if self._unusable.get(version.topic) == version.revision:
            return None
        try:
            stored = await self._parts.installed.load(version.topic)
            if stored is None:
                return None
            newest = parsed(stored.newest)
            before = None if stored.before is None else parsed(stored.before)
            for each in (newest, before):
                if each is not None and each.fingerprint not in self._contexts:
                    self._contexts[each.fingerprint] = client_context(each, self._parts.trusted)
        except (BadRequest, CannotDecrypt) as exc:
            self._unusable[version.topic] = version.revision
            log.error("push_certificate_unusable", topic=version.topic, reason=str(exc))
            return None
        return Installed(stored.version, newest, stored.newest.installed_at, before)

    async def _adopt(self, installed: Mapping[str, Installed]) -> None:
        book, before = self._book, {t: self._book.ranked(t) for t in self._book.topics}
        book.learn(installed)
        every = {each.fingerprint: each for topic in book.topics for each in book.ranked(topic)}
        self._contexts = {
            name: self._contexts.get(name) or client_context(each, self._parts.trusted)
            for name, each in every.items()
        }
        self._show(before.keys() - book.topics)
        for topic in book.topics:
            if before.get(topic) != book.ranked(topic):
                self._parts.topics.renewed(topic)
                [first, *_] = book.ranked(topic)
                log.info(
                    "push_certificate_in_use",
                    topic=topic,
                    serial_number=first.serial_number,
                    not_after=first.not_after.isoformat(),
                )
        await self._parts.apns.use(self._contexts)

    def _show(self, gone: set[str]) -> None:
        expiry = self._parts.metrics.push_certificate_expiry
        for topic in gone:
            expiry.remove(topic)
        for topic in self._book.topics:
            expiry.labels(topic).set(self._book.ranked(topic)[0].not_after.timestamp())

    async def _retire(self) -> None:
        for topic, each in self._book.installed.items():
            if each.before is None or not self._book.is_proven(each.newest):
                continue
            revision = self._parts.ids.new()
            if await self._parts.installed.retire(topic, each.version.revision, revision):
                log.info("push_certificate_replaced", topic=topic)

    def _warn(self) -> None:
        book = self._book
        warn_of_expiry([book.ranked(topic)[0] for topic in book.topics], self._parts.clock.now())
