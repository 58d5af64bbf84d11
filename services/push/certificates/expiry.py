"""The events of push certificates near their end.

Promises: one for each of DAYS_BEFORE_END of a certificate, made only while some subscription asks for it; the
replica that serves the partition of `push:TOPIC` stores it with a note of what it reports, in one write, and
publishes it until it is safe, always with the same id and bytes.
"""

from dataclasses import dataclass
from datetime import timedelta

from services.push.certificates.store import CertificateStore
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.concurrency.publishing import publish_safely
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BrokerUnavailable, StoreUnavailable
from shared.domain.event import FACTS_VERSION, Topic
from shared.domain.identity import days_before, to_report
from shared.domain.outbox import Fact, OutboxEvent
from shared.ports.certificates import PushExpiries, PushExpiry
from shared.ports.clock import Clock, Ids
from shared.ports.events import EventPublisher, Journal
from shared.security.push_certificate import PushCertificate
from shared.times import rfc3339

PACE = Pace(every=timedelta(seconds=10), after_failure=timedelta(seconds=10))
WRITER = "push"
"""The writer of these events. It journals no device messages, so it is never taken over (rule 7)."""


@dataclass(frozen=True, slots=True)
class PushExpiryEvents:
    certificates: CertificateStore
    expiries: PushExpiries
    journal: Journal
    publisher: EventPublisher
    wanted: WantedTopics
    share: Share
    clock: Clock
    ids: Ids

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("push_expiry", self.look, PACE, waits="push_expiry_waits")

    async def look(self) -> None:
        """One pass. Raises Unavailable."""
        if Topic.PUSH_CERTIFICATE_EXPIRING not in self.wanted.now:
            return
        known = {each.topic: each for each in await self.expiries.all()}
        for topic in [*self.certificates.topics]:
            expiry = self._due(topic, known.get(topic))
            if expiry is not None and await self.expiries.report(expiry, known.get(topic)):
                known[topic] = expiry
        failed: BrokerUnavailable | None = None
        for expiry in (each for topic, each in known.items() if self._is_ours(topic)):
            try:
                await self._publish(expiry)
            except BrokerUnavailable as exc:  # the queues of other partitions may be there
                failed = exc
        if failed is not None:
            raise failed

    def _due(self, topic: str, known: PushExpiry | None) -> PushExpiry | None:
        """The event that is due for the certificate in use; None while an event is not safe."""
        if not self._is_ours(topic) or (known is not None and known.event is not None):
            return None
        certificate = self.certificates.ranked(topic)[0]
        days = days_before(certificate.not_before, certificate.not_after, self.clock.now())
        seen = None if known is None else known.reported
        reported = to_report(certificate.fingerprint, days, seen)
        if reported is None:
            return None
        id_, at = self.ids.new(), self.clock.time_ns()
        return PushExpiry(topic, reported, expiring(id_, at, certificate, reported.days))

    async def _publish(self, expiry: PushExpiry) -> None:
        if expiry.event is None:
            return
        event = expiry.event.event(push_key(expiry.topic), WRITER)
        if not all(await self.journal.append([event])):
            raise StoreUnavailable("the journal did not take the event of a push certificate")
        await publish_safely(self.publisher, [event])
        await self.expiries.published(expiry)

    def _is_ours(self, topic: str) -> bool:
        return push_key(topic).partition in self.share.partitions


def expiring(id_: str, at: int, certificate: PushCertificate, days: int) -> OutboxEvent:
    facts: dict[str, Fact] = {
        "version": FACTS_VERSION,
        "topic": certificate.topic,
        "days": days,
        "certificate": certificate.fingerprint,
        "serial": certificate.serial_number,
        "not_after": rfc3339(certificate.not_after),
    }
    return OutboxEvent(id_, Topic.PUSH_CERTIFICATE_EXPIRING, at, facts)


def push_key(topic: str) -> EnrollmentKey:
    """The event has no device, and no device has such an id."""
    name = f"push:{topic}"
    return EnrollmentKey(name, device=name)
