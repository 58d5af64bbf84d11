"""When the next attempt of a delivery is made: by the schedule of its subscription, with jitter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.webhook.endpoints.sender import LONGEST_WAIT
from shared.domain.subscription import Delivery, Subscription

SHARED_ATTEMPTS = 2
"""So many attempts of an event may share a request, and may fail at its cost though no other event was
taken."""
JITTER_PERCENT = 20
"""Spreads each wait, so that what failed together does not come back together."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    waits: Sequence[timedelta]
    """Of subscriptions without a schedule of their own."""
    random: Callable[[], float]
    """In [0, 1)."""

    def waits_of(self, subscription: Subscription) -> Sequence[timedelta]:
        own = subscription.limits.retry_schedule
        return self.waits if own is None else own

    def next_attempt(
        self,
        subscription: Subscription,
        attempts: int,
        now: datetime,
        asked: timedelta = timedelta(),
    ) -> datetime | None:
        """The n-th attempt is followed by the n-th wait, or by the one that the subscriber `asked` for if
        that is longer; without any attempt made it is now. None: the schedule is used up."""
        waits = self.waits_of(subscription)
        if attempts > len(waits):
            return None
        jitter = JITTER_PERCENT / 100 * (2 * self.random() - 1)
        wait = waits[attempts - 1] * (1 + jitter) if attempts else timedelta()
        return now + max(wait, asked)

    def time_left(self, subscription: Subscription, delivery: Delivery, now: datetime) -> timedelta:
        """The time until it is due; zero when it is, or when no right clock can have set its time."""
        left = (delivery.next_attempt_at or now) - now
        waits = self.waits_of(subscription)
        longest = max([LONGEST_WAIT, *waits]) * (1 + JITTER_PERCENT / 100)
        return left if timedelta() < left <= longest else timedelta()

    def free_attempts(self, subscription: Subscription) -> int:
        """So many failures use up an attempt of an event though its subscriber may be failing as a whole."""
        return min(SHARED_ATTEMPTS, len(self.waits_of(subscription)))
