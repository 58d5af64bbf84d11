"""The subscriptions as they are now, and all attempts at delivery to them, bounded and counted.

Promises: a change of a subscription is followed within 2 s, by what waits for a slot or in a delivery queue
too, and one that is gone leaves nothing behind; a subscriber that hangs holds only its own slots and stalls
no other one, nor does one that cannot be followed; a failure uses up an attempt of its events only while the
subscriber is neither down nor paused; a process that cannot read the subscriptions knows it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from services.webhook.endpoints.endpoint import Endpoint
from services.webhook.endpoints.limited_log import LimitedLog
from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.sender import AttemptOutcome, EventSender
from services.webhook.endpoints.slots import PATIENCE, Item
from services.webhook.forms.form import most_of
from shared.concurrency.partitions import STALE_AFTER
from shared.concurrency.periodic import Loops, Pace
from shared.domain.subscription import Delivery, Subscription, SubscriptionState
from shared.ports.clock import Clock
from shared.ports.deliveries import Subscriptions
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=1))
_DEADLINE = timedelta(seconds=15)
CURRENT_FOR = STALE_AFTER
"""So long what was read counts as all subscriptions there are, as they are."""
LEFT_AFTER = timedelta(seconds=30)
"""A process that could not read them for so long is cut off, and leaves its partitions to others."""

_CUT_SHORT = AttemptOutcome("the attempt was cut short", counts=False)
_CHANGED = AttemptOutcome("the subscription was changed: not tried yet", counts=False)

Verdicts = Callable[[Subscription, Endpoint], Awaitable[None]]
"""Looks at each subscription after it was read, and at how its subscriber behaves."""


async def no_verdicts(subscription: Subscription, endpoint: Endpoint) -> None:
    """The subscriptions stay as they are."""


class Subscribers:
    def __init__(
        self,
        subscriptions: Subscriptions,
        sender: EventSender,
        clock: Clock,
        metrics: Metrics,
        patience: timedelta = PATIENCE,
        portion: Callable[[], float] = lambda: 1.0,
        verdicts: Verdicts = no_verdicts,
    ) -> None:
        """`portion` of the work of all replicas is this one's."""
        self._subscriptions = subscriptions
        self._sender = sender
        self._clock = clock
        self._delivered = metrics.deliveries_delivered
        self._patience = patience
        self._portion = portion
        self._verdicts = verdicts
        self._known: dict[str, Subscription] = {}
        self._current: list[Subscription] = []
        self.was_read = asyncio.Event()
        self._read_at = float("-inf")
        self.is_current = False
        """They were read so lately that another replica's change can hardly be missing."""
        self._endpoints: dict[str, Endpoint] = {}
        self._failures = LimitedLog("delivery_failed", clock)
        self._set_aside = LimitedLog("delivery_set_aside", clock)

    async def run(self, loops: Loops) -> None:
        async with asyncio.TaskGroup() as group:
            for name, step, waits in (
                ("subscribers", self.read, "subscriptions_not_read"),
                ("subscription_verdicts", self.judge, "subscriptions_not_judged"),
            ):
                group.create_task(loops.keep_doing(name, step, PACE, waits))

    async def read(self) -> None:
        began = self._clock.monotonic()
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            found = await self._subscriptions.all()
        self._read_at = began
        self.is_current = self._was_read_within(CURRENT_FOR)
        former, self._known = self._known, {each.id: each for each in found}
        self._current = [each for each in found if each.state is not SubscriptionState.DELETED]
        for gone in former.keys() - self._known.keys():
            self._endpoints.pop(gone, None)
        failed: list[Exception] = []
        for subscription in found:
            endpoint = self.endpoint(subscription.id)
            if self.was_read.is_set() and subscription.id not in former and subscription.starts_at:
                endpoint.history_at = self._clock.monotonic()
            try:
                endpoint.follow(subscription, self._portion())
            except Exception as exc:  # noqa: BLE001 - the others are followed all the same
                failed.append(exc)
        self.was_read.set()
        if failed:
            raise ExceptionGroup("subscriptions that could not be followed", failed)

    async def judge(self) -> None:
        """Look at each subscription as it was read last, whatever becomes of the others."""
        failed: list[Exception] = []
        for subscription in list(self._current):
            try:
                await self._verdicts(subscription, self.endpoint(subscription.id))
            except Exception as exc:  # noqa: BLE001
                failed.append(exc)
        if failed:
            raise ExceptionGroup("subscriptions that could not be judged", failed)

    def tick(self) -> None:
        """Time has passed for who waits for a slot, and for what was read."""
        self.is_current = self._was_read_within(CURRENT_FOR)
        for endpoint in self._endpoints.values():
            endpoint.slots.tick()

    @property
    def is_cut_off(self) -> bool:
        return not self._was_read_within(LEFT_AFTER)

    def _was_read_within(self, time: timedelta) -> bool:
        return self._clock.monotonic() - self._read_at < time.total_seconds()

    def current(self) -> Sequence[Subscription]:
        """Those that get events: all but the deleted ones."""
        return self._current

    def get(self, subscription: str) -> Subscription | None:
        """One that gets events."""
        found = self._known.get(subscription)
        return None if found is None or found.state is SubscriptionState.DELETED else found

    @property
    def paused_count(self) -> int:
        return sum(endpoint.is_paused for endpoint in self._endpoints.values())

    def endpoint(self, subscription: str) -> Endpoint:
        """Of a subscription that is gone: a new one, which is not kept."""
        found = self._endpoints.get(subscription)
        if found is None:
            found = Endpoint(subscription, self._clock, self._patience)
            if subscription in self._known:
                self._endpoints[subscription] = found
        return found

    async def first(
        self, subscription: Subscription, device: str, request: EventRequest
    ) -> AttemptOutcome:
        """The first attempt of these events of a device. It does not count where the subscriber is too busy,
        or away."""
        return await self._ask(subscription, Item(device, request), is_first=True)

    async def again(
        self, subscription: Subscription, device: str, request: EventRequest, is_alone: bool = False
    ) -> AttemptOutcome:
        """A retry; the caller keeps to `has_room`."""
        return await self._ask(subscription, Item(device, request, is_alone), is_first=False)

    def note_first_failure(self, delivery: Delivery) -> None:
        """Log that a delivery queue begins to wait for this delivery."""
        self._failures.warning(**self._described(delivery))

    def note_set_aside(self, delivery: Delivery) -> None:
        """Log that a delivery queue goes on without this delivery."""
        self._set_aside.warning(**self._described(delivery))

    def _described(self, delivery: Delivery) -> dict[str, object]:
        due = delivery.next_attempt_at
        known = self._known.get(delivery.queue.subscription)
        return {
            "subscription": delivery.queue.subscription,
            "name": known.name if known else None,
            "device": delivery.queue.device,
            "topic": delivery.topic,
            "event_id": delivery.event_id,
            "attempt": delivery.attempts,
            "answer": delivery.last_error,
            "next_attempt": due.isoformat() if due else None,
        }

    async def _ask(self, subscription: Subscription, item: Item, is_first: bool) -> AttemptOutcome:
        endpoint = self.endpoint(subscription.id)
        if away := endpoint.away(is_first):
            return away
        if subscription.form.batch > 1:
            form = subscription.form
            item.size = sum(most_of(form, event.body) for event in item.request.events)
        given = await endpoint.slots.take(item, is_first)
        if isinstance(given, AttemptOutcome):
            return given
        outcome = _CUT_SHORT
        try:
            # It may have gone down, or have been changed, while the item waited.
            now = self.get(subscription.id)
            if now is None or now.is_held or sum(map(_count, given)) > now.form.batch:
                outcome = _CHANGED
            else:
                outcome = endpoint.away(is_first) or await self._post(now, endpoint, given)
        finally:
            for other in given[1:]:
                if other.answer is not None and not other.answer.done():
                    other.answer.set_result(outcome)
            endpoint.slots.give()
        return outcome

    async def _post(
        self, subscription: Subscription, endpoint: Endpoint, items: Sequence[Item]
    ) -> AttemptOutcome:
        endpoint.asked()
        request = items[0].request
        if len(items) > 1:
            events = tuple(event for item in items for event in item.request.events)
            attempt = max(item.request.attempt for item in items)
            request = replace(request, events=events, attempt=attempt)
        outcome = await self._sender.send(subscription, request)
        endpoint.heard(outcome, [item.device for item in items])
        if outcome.delivered:
            self._delivered.inc(len(request.events))
            return outcome
        is_shared = len(request.events) > 1
        return replace(outcome, counts=not endpoint.is_resting, is_shared=is_shared)


def _count(item: Item) -> int:
    return len(item.request.events)
