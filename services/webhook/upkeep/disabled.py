"""The event of a subscription that the server disabled.

Promises: it is journaled, and published until it is safe, by the replica that serves its partition; its id
follows from when it was disabled, and its bytes are those in the journal, so a repetition is the same,
even after a client's change. No write notes that it is safe, so a replica that takes the partition
within REPEATED_FOR repeats it.
"""

from dataclasses import dataclass, field
from datetime import timedelta

import orjson

from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.concurrency.publishing import journal_behind, publish_safely
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import Unavailable
from shared.domain.event import FACTS_VERSION, Event, Topic, derived_id
from shared.domain.subscription import Subscription, SubscriptionState
from shared.ports.clock import Clock
from shared.ports.deliveries import Subscriptions
from shared.ports.events import EventPublisher, Journal
from shared.times import EPOCH, nanoseconds

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=10))
REPEATED_FOR = timedelta(days=7)
WRITER = "webhook"
"""The writer of these events. It journals no device messages, so it is never taken over (rule 7)."""


@dataclass(frozen=True, slots=True)
class DisabledEvents:
    subscriptions: Subscriptions
    journal: Journal
    publisher: EventPublisher
    wanted: WantedTopics
    share: Share
    clock: Clock
    _safe: set[str] = field(default_factory=set)
    """Ids of events that are safe, while their subscriptions are disabled."""

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("webhook_disabled", self.look, PACE, waits="webhook_disabled_waits")

    async def look(self) -> None:
        """One pass. Raises Unavailable."""
        if Topic.WEBHOOK_DISABLED not in self.wanted.now:
            return
        found = await self.subscriptions.all()
        disabled = [each for each in found if each.state is SubscriptionState.DISABLED]
        events = {event.id: event for event in map(disabled_event, disabled)}
        self._safe.intersection_update(events)
        since = nanoseconds(self.clock.now() - REPEATED_FOR)
        failed: list[Unavailable] = []
        for id_, event in events.items():
            is_ours = event.key.partition in self.share.partitions
            if is_ours and id_ not in self._safe and event.created_at > since:
                try:
                    journaled = await journal_behind(self.journal, [event], {}, self.journal.term)
                    await publish_safely(self.publisher, journaled)
                    self._safe.add(id_)
                except Unavailable as exc:  # the partitions of the others may not be away
                    failed.append(exc)
        if failed:
            raise failed[0]


def disabled_event(subscription: Subscription) -> Event:
    """It has no device: its partition is that of `webhook:ID`, which no device has for an id."""
    # A former version noted no `disabled_at`.
    at = nanoseconds(subscription.disabled_at or subscription.changed_at or EPOCH)
    name = f"webhook:{subscription.id}"
    facts = {
        "version": FACTS_VERSION,
        "webhook": subscription.id,
        "name": subscription.name,
        "reason": subscription.state_reason,
    }
    return Event(
        id=derived_id(f"{name}\0{at}", at // 10**6),
        topic=Topic.WEBHOOK_DISABLED,
        key=EnrollmentKey(name, device=name),
        created_at=at,
        raw_payload=orjson.dumps(facts),
        writer=WRITER,
        number=at,
    )
