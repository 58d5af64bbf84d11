"""The time of the next attempt of a delivery: pure arithmetic over the configured waits.

Promises: after the n-th attempt comes the n-th wait, spread by at most 20 % so that what failed
together does not come back together; after the last wait, and the attempt that follows it, nothing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

JITTER = 0.2


def next_attempt(
    attempts: int, now: datetime, waits: Sequence[timedelta], random: float
) -> datetime | None:
    """The wait after `attempts` attempts; None: the schedule is used up.

    `random` is in [0, 1). Without any attempt made, it is now."""
    if attempts < 1:
        return now
    if attempts > len(waits):
        return None
    return now + waits[attempts - 1] * (1 + JITTER * (2 * random - 1))
