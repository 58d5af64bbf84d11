"""Keeps what this process pushes with equal to what is installed, without a restart.

Promises: a certificate that was installed or removed through any replica counts within seconds on
all of them; one that cannot be read here changes nothing, and is logged once; the certificate before
is forgotten once APNs has taken a push with the new one; one that ends within 60 days is logged every day.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import structlog

from services.push.certificates.store import (
    ApnsConnections,
    CertificateStore,
    Installed,
    parsed,
)
from services.push.certificates.tls import ClientContexts
from services.push.send.topics import Topics
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import BadRequest, CannotDecrypt
from shared.ports.certificates import PushCertificates, TopicVersion
from shared.ports.clock import Clock, Ids
from shared.security.push_certificate import PushCertificate
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=3), after_failure=timedelta(seconds=3))
DAY = timedelta(days=1)
WARN_BEFORE = timedelta(days=60)


class Rotation:
    """Fills `certificates` from the store, `installed`, again and again."""

    def __init__(
        self,
        certificates: CertificateStore,
        installed: PushCertificates,
        apns: ApnsConnections,
        topics: Topics,
        contexts: ClientContexts,
        metrics: Metrics,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._certificates = certificates
        self._installed = installed
        self._apns = apns
        self._topics = topics
        self._contexts = contexts
        self._expiry = metrics.push_certificate_expiry
        self._clock = clock
        self._ids = ids
        self._has_looked = False
        self._warn_at = float("-inf")
        self._unusable: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("rotation", self._once, PACE, waits="push_certificates_not_read")

    async def _once(self) -> None:
        now = self._clock.monotonic()
        if now >= self._warn_at:
            certificates = self._certificates
            first = [certificates.ranked(topic)[0] for topic in certificates.topics]
            warn_of_expiry(first, self._clock.now())
            self._warn_at = now + DAY.total_seconds()
        await self.look()
        for topic, each in self._certificates.installed.items():
            if each.before is None or not self._certificates.is_proven(each.newest):
                continue
            if await self._installed.retire(topic, each.version.revision, self._ids.new()):
                log.info("push_certificate_replaced", topic=topic)

    async def look(self) -> None:
        """Take what has changed. Raises StoreUnavailable."""
        async with self._one_at_a_time:  # so that what was read earlier never replaces the latest
            versions = {each.topic: each for each in await self._installed.versions()}
            known = self._certificates.installed
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
            stored = await self._installed.load(version.topic)
            if stored is None:
                return None
            newest = parsed(stored.newest)
            before = None if stored.before is None else parsed(stored.before)
            for each in (newest, before):
                if each is not None:
                    self._contexts.of(each)
        except (BadRequest, CannotDecrypt) as exc:
            self._unusable[version.topic] = version.revision
            log.error("push_certificate_unusable", topic=version.topic, reason=str(exc))
            return None
        return Installed(stored.version, newest, stored.newest.installed_at, before)

    async def _adopt(self, installed: Mapping[str, Installed]) -> None:
        certificates = self._certificates
        before = {topic: certificates.ranked(topic) for topic in certificates.topics}
        certificates.learn(installed)
        ranked = {topic: certificates.ranked(topic) for topic in certificates.topics}
        contexts = self._contexts.of_only(each for every in ranked.values() for each in every)
        for topic in before.keys() - ranked.keys():
            self._expiry.remove(topic)
        for topic, (first, *others) in ranked.items():
            self._expiry.labels(topic).set(first.not_after.timestamp())
            if before.get(topic) != (first, *others):
                self._topics.renewed(topic)
                log.info(
                    "push_certificate_in_use",
                    topic=topic,
                    serial_number=first.serial_number,
                    not_after=first.not_after.isoformat(),
                )
        await self._apns.use(contexts)


def warn_of_expiry(certificates: Iterable[PushCertificate], now: datetime) -> None:
    """One log line for each certificate that ends within 60 days."""
    for certificate in certificates:
        remaining = certificate.remaining(now)
        if remaining <= WARN_BEFORE:
            say = log.error if certificate.has_expired(now) else log.warning
            say(
                "push_certificate_expires",
                topic=certificate.topic,
                not_after=certificate.not_after.isoformat(),
                days_left=max(0, remaining.days),
            )
