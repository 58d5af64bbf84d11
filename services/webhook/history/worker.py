"""Stores journaled events as deliveries again: for replays, and for subscriptions with a start in the past.

Promises: a replay goes on in another process where its own died; what is stored twice is stored once; in each
delivery queue the events of one page are stored in their order, and their number is their time. The last
events are looked at once every process has surely journaled them. A subscription that was being prepared is
active once all of its history is stored.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from services.webhook.delivery.filters import Filters
from services.webhook.delivery.store import read_apart, retry_dead_letters
from shared.chunks import chunked
from shared.concurrency.periodic import Loops, Pace
from shared.domain.subscription import (
    START,
    Delivery,
    DeliveryQueueKey,
    Replay,
    ReplayChoice,
    ReplayState,
    Subscription,
    SubscriptionState,
)
from shared.ports.clock import Clock, Ids
from shared.ports.deliveries import Deliveries, DeliveryRecords, Replays, Subscriptions
from shared.ports.events import Journal, Journaled
from shared.times import EPOCH, from_nanoseconds, nanoseconds, to_milliseconds

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=5))
STALE_AFTER = timedelta(seconds=15)
"""A running replay without a heartbeat for so long has no worker."""
SETTLED = timedelta(seconds=10)
"""An event is in the journal so long after its time; all replicas know a new subscription by then."""
PAGE = 500
FEW = 20
"""Events that are read with their bodies at once."""
MOST_ROUNDS = 20
_STORED_TOGETHER = 64


@dataclass(slots=True)
class _Step:
    """A part of a replay. `is_last`: there is no more, and none can come."""

    position: str
    events: Sequence[Journaled] = ()
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class ReplayWorker:
    replays: Replays
    subscriptions: Subscriptions
    deliveries: Deliveries
    records: DeliveryRecords
    journal: Journal
    filters: Filters
    clock: Clock
    ids: Ids
    process: str
    _seen: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    """Owner and heartbeats of each running replay, and since when they are so by our clock."""

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("webhook_replays", self.look, PACE, waits="webhook_replays_wait")

    async def look(self) -> None:
        """Work on each replay that has no other worker."""
        known = {each.id: each for each in await self.subscriptions.all()}
        for each in known.values():
            if each.state is SubscriptionState.PREPARING:
                await self.replays.add(_preparation(each))
        running = [each for each in await self.replays.running() if self._is_free(each)]
        for _ in range(MOST_ROUNDS):
            stepped = [await self._step(each, known.get(each.subscription)) for each in running]
            running = [each for each in stepped if each is not None]
            if not running:
                return

    def _is_free(self, replay: Replay) -> bool:
        now = self.clock.monotonic()
        owner, heartbeats, since = self._seen.get(replay.key, ("", -1, now))
        if (owner, heartbeats) != (replay.owner, replay.heartbeats):
            since = now
        self._seen[replay.key] = (replay.owner, replay.heartbeats, since)
        is_stale = now - since >= STALE_AFTER.total_seconds()
        return replay.owner in ("", self.process) or is_stale

    async def _step(self, replay: Replay, subscription: Subscription | None) -> Replay | None:
        """The replay with a part more of it done; None: there is nothing to do now."""
        if subscription is None or subscription.state is SubscriptionState.DELETED:
            await self._end(replay, ReplayState.CANCELLED)
            return None
        if replay.choice.has_failed:
            step, count = await self._retry(replay)
        else:
            step = await self._next(replay, subscription)
            count = await self._store(replay, subscription, step.events)
        if step.is_last:
            if replay.id == START:
                await self._activate(replay.subscription)
            await self._end(replace(replay, stored=replay.stored + count), ReplayState.DONE)
            return None
        moved = replace(replay, position=step.position, stored=replay.stored + count)
        advanced = await self._advance(moved, replay)
        return advanced if step.position != replay.position else None

    async def _advance(self, wanted: Replay, former: Replay) -> Replay | None:
        """None: another process works on it."""
        mine = replace(wanted, owner=self.process, heartbeats=former.heartbeats + 1)
        return mine if await self.replays.advance(mine, former) else None

    async def _end(self, replay: Replay, state: ReplayState) -> None:
        ended = replace(replay, state=state, finished_at=to_milliseconds(self.clock.now()))
        if await self._advance(ended, replay):
            self._seen.pop(replay.key, None)
            log.info(
                "webhook_replay_ended",
                subscription=replay.subscription,
                replay=replay.id,
                state=state.value,
                events=replay.stored,
            )

    async def _retry(self, replay: Replay) -> tuple[_Step, int]:
        page = await self.records.page(replay.subscription, replay.position, PAGE)
        count = await retry_dead_letters(self.deliveries, page, self.clock.now())
        if len(page) < PAGE:
            return _Step(replay.position, is_last=True), count
        return _Step(page[-1].event_id), count

    async def _next(self, replay: Replay, subscription: Subscription) -> _Step:
        choice = replay.choice
        if choice.event_ids:
            named = [Journaled(id, 0, 0) for id in choice.event_ids]
            return _Step("", await self._passing(named, subscription), is_last=True)
        if choice.device is not None:
            position = int(replay.position or choice.since)
            return await self._next_of_device(choice, position, subscription)
        since = from_nanoseconds(int(replay.position or choice.since))
        end = from_nanoseconds(choice.until) + SETTLED
        settled = self.clock.now() - SETTLED
        page, following = await self.journal.between(since, min(end, settled), PAGE)
        chosen = [
            each
            for each in page
            if choice.since <= each.created_at < choice.until
            and _is_wanted(choice, subscription, each.topic or "")
        ]
        if subscription.filters:
            chosen = await self._passing(chosen, subscription)
        is_last = len(page) < PAGE and settled >= end
        return _Step(str(nanoseconds(following)), chosen, is_last)

    async def _next_of_device(
        self, choice: ReplayChoice, since: int, subscription: Subscription
    ) -> _Step:
        device = choice.device or ""
        page = await self.journal.of_device(device, since, choice.until - 1, FEW)
        events = await self._passing(page, subscription)
        is_settled = self.clock.now() >= from_nanoseconds(choice.until) + SETTLED
        is_last = len(page) < FEW and is_settled
        return _Step(str(page[-1].created_at + 1 if page else since), events, is_last)

    async def _passing(
        self, journaled: Sequence[Journaled], subscription: Subscription
    ) -> list[Journaled]:
        """Those that pass its filters; the bodies of few are held at once. What cannot be read stays as it
        is, and waits in its delivery queue if its topic is known."""
        passing: list[Journaled] = []
        for chunk in chunked(journaled, FEW):
            found = await read_apart(self.journal, [each.id for each in chunk])
            for each in chunk:
                event = found.get(each.id)
                if isinstance(event, Exception):
                    passing.append(each)
                elif event and await self.filters.pass_event(subscription.filters, event):
                    size, device = len(event.raw_payload), event.key.device
                    passing.append(
                        Journaled(each.id, event.created_at, size, event.topic.value, device)
                    )
        return passing

    async def _store(
        self, replay: Replay, subscription: Subscription, events: Sequence[Journaled]
    ) -> int:
        """Each queue's in order, one after the other; many queues' together."""
        queues: dict[DeliveryQueueKey, list[Delivery]] = defaultdict(list)
        now = to_milliseconds(self.clock.now())
        for event in sorted(events, key=lambda each: each.created_at):
            if not _is_wanted(replay.choice, subscription, event.topic or ""):
                continue
            queue = DeliveryQueueKey(subscription.id, event.device or "", replay.aside)
            queues[queue].append(
                Delivery(
                    queue,
                    event.id,
                    event.created_at,
                    next_attempt_at=now,
                    size=event.size,
                    topic=event.topic,
                )
            )
        count = sum(map(len, queues.values()))
        while queues:
            firsts = [waiting.pop(0) for waiting in queues.values()]
            for chunk in chunked(firsts, _STORED_TOGETHER):
                await self.deliveries.store(chunk)
                # A dead letter is stored already: it is tried again, as a new one would be.
                await self.deliveries.revive([each.id for each in chunk], now)
            queues = defaultdict(list, {key: left for key, left in queues.items() if left})
        return count

    async def _activate(self, id: str) -> None:
        while True:
            found = await self.subscriptions.get(id)
            if found is None or found.state is not SubscriptionState.PREPARING:
                return
            active = replace(found, state=SubscriptionState.ACTIVE, revision=self.ids.new())
            if await self.subscriptions.change(active, found.revision):
                return


def progress_of(replay: Replay) -> float:
    """About how much of it is done, from 0 to 1."""
    choice = replay.choice
    if replay.state is ReplayState.DONE:
        return 1.0
    if not replay.position or choice.has_failed or choice.event_ids:
        return 0.0
    done = int(replay.position) - choice.since
    return round(min(1.0, max(0.0, done / max(1, choice.until - choice.since))), 3)


def _preparation(subscription: Subscription) -> Replay:
    """All replicas store what comes later behind it."""
    created = subscription.created_at or EPOCH
    choice = ReplayChoice(since=subscription.starts_at or 0, until=nanoseconds(created + SETTLED))
    return Replay(START, subscription.id, choice, created)


def _is_wanted(choice: ReplayChoice, subscription: Subscription, topic: str) -> bool:
    return subscription.wants(topic) and (not choice.topics or topic in choice.topics)
