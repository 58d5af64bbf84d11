"""What became of the events of a subscription: read, tried again, skipped, tested.

Promises: a request reads a bounded number of deliveries, however many wait; a test event goes to its one
subscription, is stored nowhere and is never tried again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from services.webhook.delivery.store import retry_dead_letters, skip
from services.webhook.endpoints.request import single
from services.webhook.endpoints.sender import AttemptOutcome, EventSender
from shared.domain.errors import Conflict, Unavailable
from shared.domain.event import FACTS_VERSION, TEST_TOPIC
from shared.domain.subscription import (
    Activity,
    AttemptRecord,
    Delivery,
    DeliveryState,
    Replay,
    ReplayChoice,
    Subscription,
)
from shared.ports.clock import Clock, Ids
from shared.ports.deliveries import Activities, Deliveries, DeliveryRecords, Replays
from shared.ports.events import Journal
from shared.times import from_nanoseconds, rfc3339, time_of_event, to_milliseconds

PAGE = 1000
MOST_PAGES = 10
MOST_DEVICES = 100
MOST_RUNNING = 10
TOO_MANY = f"{MOST_RUNNING} replays of this webhook run: wait until one of them ends"
MOST_TIMES = 100
"""Waiting events, first by id, of which the oldest is sought: the id of one that follows from another has the
time of its cause, so a later id may be of an earlier event."""


@dataclass(slots=True)
class ReceiverStatus:
    """Counts of what is stored; `is_complete` is False where only the oldest part was counted. `devices`:
    the first of those whose events wait."""

    waiting: int = 0
    dead_letters: int = 0
    devices: list[str] = field(default_factory=list)
    oldest: datetime | None = None
    is_complete: bool = True
    delivered: int = 0
    failed: int = 0
    last_success: AttemptRecord | None = None
    last_failure: AttemptRecord | None = None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    state: DeliveryState | None = None
    device: str | None = None

    def holds(self, delivery: Delivery) -> bool:
        is_of_device = self.device in (None, delivery.queue.device)
        return is_of_device and self.state in (None, delivery.state)


@dataclass(frozen=True, slots=True)
class DeliveryHistory:
    deliveries: Deliveries
    records: DeliveryRecords
    activities: Activities
    replays: Replays
    journal: Journal
    sender: EventSender
    clock: Clock
    ids: Ids

    async def status(self, subscription: str) -> ReceiverStatus:
        status, devices, after = ReceiverStatus(), dict[str, None](), ""
        for _ in range(MOST_PAGES):
            page = await self.records.page(subscription, after, PAGE)
            pending = [each for each in page if each.state is DeliveryState.PENDING]
            devices |= dict.fromkeys(each.queue.device for each in pending)
            status.waiting += len(pending)
            status.dead_letters += len(page) - len(pending)
            if pending and status.oldest is None:
                status.oldest = await self._oldest(pending[:MOST_TIMES])
            if len(page) < PAGE:
                break
            after = page[-1].event_id
        else:
            status.is_complete = False
        status.devices = list(devices)[:MOST_DEVICES]
        _add(status, await self.activities.of(subscription))
        return status

    async def _oldest(self, waiting: Sequence[Delivery]) -> datetime | None:
        """The time of the oldest; by its id where the journal has forgotten it."""
        ids = [each.event_id for each in waiting]
        stored = await self.journal.stored(ids)
        times = [from_nanoseconds(stored[i]) if i in stored else time_of_event(i) for i in ids]
        return min(filter(None, times), default=None)

    async def page(
        self, subscription: str, wanted: DeliveryFilter, after: str, limit: int
    ) -> tuple[list[Delivery], str | None]:
        """Deliveries behind an event id, and the one behind which the next page begins; None: there is none.
        A page may have fewer than `limit` though others follow."""
        found: list[Delivery] = []
        for _ in range(MOST_PAGES):
            page = await self.records.page(subscription, after, PAGE)
            for delivery in page:
                if len(found) == limit:
                    return found, after
                found += [delivery] if wanted.holds(delivery) else []
                after = delivery.event_id
            if len(page) < PAGE:
                return found, None
        return found, after

    async def attempts(self, subscription: str) -> dict[str, AttemptRecord]:
        """The latest failures, by the first event of each."""
        activities = await self.activities.of(subscription)
        failures = [failure for activity in activities for failure in activity.failures]
        return {each.event_id: each for each in sorted(failures, key=lambda failure: failure.at)}

    async def retry(self, subscription: str, events: Collection[str]) -> int:
        """Try these again; how many will be."""
        ids = [f"{subscription}:{each}" for each in events]
        return await self.deliveries.retry(ids, self.clock.now())

    async def retry_all(self, subscription: str, by: str) -> tuple[int, Replay | None]:
        """Try the dead letters again; how many will be, and the replay that goes on with the rest: one that
        has not come that far, or else a new one. Raises Conflict."""
        now = self.clock.now()
        count, after = 0, ""
        for _ in range(MOST_PAGES):
            page = await self.records.page(subscription, after, PAGE)
            count += await retry_dead_letters(self.deliveries, page, now)
            if len(page) < PAGE:
                return count, None
            after = page[-1].event_id
        replays = await self.replays.of(subscription)
        for each in replays:
            if each.choice.has_failed and not each.finished_at and each.position <= after:
                return count, each
        check_room(replays)
        rest = Replay(
            self.ids.new(),
            subscription,
            ReplayChoice(has_failed=True),
            to_milliseconds(now),
            by,
            position=after,
        )
        await self.replays.add(rest)
        return count, rest

    async def skip(self, subscription: str, events: Collection[str]) -> int:
        """Make dead letters of these waiting ones, and keep their bodies; how many were."""
        ids = [f"{subscription}:{each}" for each in events]
        return sum([await skip(self.deliveries, self.journal, each) for each in ids])

    async def test(self, subscription: Subscription) -> tuple[str, AttemptOutcome]:
        """Send one event of the topic for tests; its id, and what became of it."""
        if subscription.is_configured:
            raise Conflict("receivers of MDM_WEBHOOK_URL get MicroMDM's events, and no test events")
        event_id = self.ids.new()
        document = {
            "topic": TEST_TOPIC,
            "event_id": event_id,
            "created_at": rfc3339(self.clock.now()),
            "webhook_event": {
                "version": FACTS_VERSION,
                "webhook": subscription.id,
                "name": subscription.name,
            },
        }
        try:
            request = single(event_id, TEST_TOPIC, orjson.dumps(document))
            return event_id, await self.sender.send(subscription, request)
        except RuntimeError as exc:  # it is opened once the store was reached
            raise Unavailable("the service is starting") from exc


def check_room(replays: Sequence[Replay]) -> None:
    """Raises Conflict where too many of a subscription run for another one."""
    if sum(not each.finished_at for each in replays) >= MOST_RUNNING:
        raise Conflict(TOO_MANY)


def _add(status: ReceiverStatus, activities: Sequence[Activity]) -> None:
    status.delivered = sum(each.delivered for each in activities)
    status.failed = sum(each.failed for each in activities)
    successes = [each.last_success for each in activities if each.last_success]
    failures = [failure for each in activities for failure in each.failures]
    status.last_success = max(successes, key=lambda attempt: attempt.at, default=None)
    status.last_failure = max(failures, key=lambda attempt: attempt.at, default=None)
