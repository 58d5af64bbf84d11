"""One subscriber as it behaves towards this process: whether it takes events, fails as a whole, or is gone.

Promises: it is down only after some failures and a while without any success, so that a few events which it
cannot take do not look like an outage. While it is down, one attempt at a time asks whether it is back, at
growing pauses; while it is paused, since it answered 410, once an hour. It is logged once when it begins to
fail and once when it is back.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from services.webhook.endpoints.sender import GONE, AttemptOutcome
from services.webhook.endpoints.slots import PATIENCE, Slots
from shared.domain.subscription import Subscription, SubscriptionState
from shared.ports.clock import Clock

log = structlog.get_logger()

DOWN_AFTER = timedelta(seconds=10)
_DOWN_FAILURES = 3
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)
GONE_PAUSE = timedelta(hours=1)
PROBE_PATIENCE = timedelta(minutes=1)
"""Longer than an attempt may take: one that is cut short is made again soon."""

PAUSED = AttemptOutcome(f"answered {GONE}", counts=False)
DOWN = AttemptOutcome("the subscriber is down: not tried yet", counts=False)
_NEVER, _ALWAYS = float("-inf"), float("inf")


class Endpoint:
    def __init__(self, id: str, clock: Clock, patience: timedelta = PATIENCE) -> None:
        self.slots = Slots(clock, patience)
        self.recovered_at = _NEVER
        self.history_at = _NEVER
        """When its history was last known to be incomplete in the store: always, while it is PREPARING."""
        self.retrying = 0
        self.is_paused = False
        """It answered 410."""
        self._is_held = False
        self._known: tuple[SubscriptionState, datetime | None] | None = None
        self._id = id
        self._name = ""
        self._clock = clock
        self._failures = 0
        """In a row."""
        self._failing_since = 0.0
        self._failed_at = _NEVER
        self._is_known_down = False
        self._was_heard = False
        self._pause = FIRST_PAUSE
        self._asked_at = self._ask_at = self._probed_until = _NEVER
        """When it was asked last, when it may be asked next, and when a probe under way is given up."""
        self._takes = [("", _NEVER)] * 2
        """The devices whose events it took last, and when: two different ones."""

    def follow(self, subscription: Subscription, portion: float) -> None:
        """Keep to its state and its limits from now on; of its rate, to this portion."""
        known = (subscription.state, subscription.changed_at)
        if self._known not in (None, known):
            # A client changed it: what was seen before says nothing of it now.
            self.is_paused, self._failures = False, 0
            self.recovered_at = self._clock.monotonic()
        self._known, self._name = known, subscription.name
        self._is_held = subscription.is_held
        if subscription.state is SubscriptionState.PREPARING:
            self.history_at = _ALWAYS
        elif self.history_at == _ALWAYS:
            self.history_at = self._clock.monotonic()
        self.slots.follow(subscription, portion)

    @property
    def is_down(self) -> bool:
        return self._failures >= _DOWN_FAILURES and self.failing_for >= DOWN_AFTER

    @property
    def is_gone(self) -> bool:
        """Its latest answer to this process was 410."""
        return self.is_paused and self._was_heard

    @property
    def is_resting(self) -> bool:
        return self.is_paused or self.is_down

    @property
    def failing_for(self) -> timedelta:
        """How long this process has seen nothing but failures; zero without any."""
        since = self._failing_since if self._failures else self._clock.monotonic()
        return timedelta(seconds=self._clock.monotonic() - since)

    @property
    def has_room(self) -> bool:
        """Another retry may begin."""
        if self._is_held:
            return False
        if self.is_resting:
            return not self.retrying and self._may_probe(self._ask_at)
        return self.retrying < self.slots.most_retries

    def away(self, is_first: bool) -> AttemptOutcome | None:
        """Why no attempt may be made now. While it is down, a new event asks sooner than one that waits."""
        sooner = is_first and not self.is_paused
        asks_at = self._asked_at + FIRST_PAUSE.total_seconds() if sooner else self._ask_at
        if not self.is_resting or self._may_probe(asks_at):
            return None
        return PAUSED if self.is_paused else DOWN

    def asked(self) -> None:
        """An attempt begins: while it rests, the next one waits for the end of this one."""
        now = self._clock.monotonic()
        self._asked_at = now
        if self.is_resting:
            self._probed_until = now + PROBE_PATIENCE.total_seconds()

    def ask_now(self) -> bool:
        """An operator wants an attempt: its pause is over, unless a probe is under way."""
        now = self._clock.monotonic()
        if self._probed_until > now:
            return False
        self._ask_at = now
        return True

    def was_paused(self) -> None:
        """An earlier process stored its 410: unless this one knows better, one attempt goes first."""
        if not (self._was_heard or self.is_paused):
            self.is_paused, self._ask_at = True, self._clock.monotonic()

    def took(self, since: float) -> bool:
        """True if, as this process knows, it took an event after `since` (monotonic)."""
        return self._takes[0][1] > since

    def failed(self, since: float) -> bool:
        """True if an attempt of this process failed after `since` (monotonic)."""
        return self._failed_at > since

    def took_another(self, device: str, since: float) -> bool:
        """The same, of another device."""
        return any(other != device and at > since for other, at in self._takes)

    def heard(self, outcome: AttemptOutcome, devices: Iterable[str]) -> None:
        now = self._clock.monotonic()
        was_probe, self._probed_until = self._probed_until > now, _NEVER
        if outcome.delivered:
            self._succeeded(devices, now)
            return
        if outcome.status == GONE:
            if not self.is_paused or not self._was_heard:
                log.warning(
                    "subscription_paused",
                    subscription=self._id,
                    name=self._name,
                    reason=outcome.reason,
                )
            self.is_paused = True
        elif not self._was_heard:
            self.is_paused = False
        self._was_heard = True
        if not self._failures:
            self._failing_since, self._pause = now, FIRST_PAUSE
        self._failures += 1
        self._failed_at = now
        if was_probe and self._is_known_down:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        pause = GONE_PAUSE if self.is_paused else self._pause
        self._ask_at = now + pause.total_seconds()
        if self.is_down and not self._is_known_down:
            self._is_known_down = True
            log.warning(
                "subscriber_failing",
                subscription=self._id,
                name=self._name,
                reason=outcome.reason,
            )

    def _may_probe(self, asks_at: float) -> bool:
        return self._clock.monotonic() >= max(asks_at, self._probed_until)

    def _succeeded(self, devices: Iterable[str], now: float) -> None:
        if self.is_resting:
            self.recovered_at = now
            seconds = round(self.failing_for.total_seconds())
            log.info(
                "subscriber_recovered", subscription=self._id, name=self._name, failed_for=seconds
            )
        for device in devices:
            if device != self._takes[0][0]:
                self._takes[1] = self._takes[0]
            self._takes[0] = (device, now)
        self._was_heard = True
        self.is_paused = self._is_known_down = False
        self._failures = 0
