"""Counts the attempts at each subscription, and remembers its latest success and failures.

Promises: an attempt costs no write of its own; what changed is written every few seconds, as one document of
each subscription; while the store is away the attempts go on, and what is remembered is bounded.
"""

from collections import deque
from datetime import timedelta

from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.sender import AttemptOutcome, EventSender
from shared.concurrency.periodic import Loops, Pace
from shared.domain.subscription import Activity, AttemptRecord, Subscription
from shared.ports.clock import Clock
from shared.ports.deliveries import Activities

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=5))
MOST_FAILURES = 20
"""Of each subscription."""


class _Seen:
    """The attempts at one subscription since the start of this process."""

    def __init__(self) -> None:
        self.delivered = 0
        self.failed = 0
        self.last_success: AttemptRecord | None = None
        self.failures: deque[AttemptRecord] = deque(maxlen=MOST_FAILURES)
        self.is_written = False


class RecordedSender:
    """An `EventSender` that notes what each attempt of another one came to."""

    def __init__(
        self, sender: EventSender, activities: Activities, clock: Clock, process: str
    ) -> None:
        self._sender = sender
        self._activities = activities
        self._clock = clock
        self._process = process
        self._seen: dict[str, _Seen] = {}

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        outcome = await self._sender.send(subscription, request)
        seen = self._seen.get(subscription.id)
        if seen is None:
            seen = self._seen[subscription.id] = _Seen()
        attempt = AttemptRecord(
            request.events[0].event_id,
            self._clock.now(),
            request.attempt,
            len(request.events),
            outcome.status,
            outcome.latency,
            outcome.reason,
            outcome.answer,
        )
        seen.is_written = False
        if outcome.delivered:
            seen.delivered += len(request.events)
            seen.last_success = attempt
        else:
            seen.failed += 1
            seen.failures.append(attempt)
        return outcome

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("webhook_activity", self.flush, PACE, waits="activity_not_written")

    async def flush(self) -> None:
        """Write what changed since it was last written."""
        now = self._clock.now()
        changed = {id: seen for id, seen in self._seen.items() if not seen.is_written}
        activities = [
            Activity(
                id,
                self._process,
                now,
                seen.delivered,
                seen.failed,
                seen.last_success,
                tuple(seen.failures),
            )
            for id, seen in changed.items()
        ]
        if not activities:
            return
        for seen in changed.values():
            seen.is_written = True
        try:
            await self._activities.note(activities)
        except BaseException:
            for seen in changed.values():
                seen.is_written = False
            raise

    def forget(self, subscription: str) -> None:
        """It was removed."""
        self._seen.pop(subscription, None)
