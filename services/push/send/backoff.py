"""The backoff of the sweep, as data.

Promise: a device that never answers costs less and less, one that only waits for its token is pushed
within seconds of getting it, and a whole fleet does not come due in the same second.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from services.push.send.outcomes import BackOff, Outcome, Retry, TopicRefused
from shared.ports.pushes import PushRecord

SILENT = (
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=24),
)
"""After a push that APNs took, and after one that only a change of the device can mend."""

UNSENT = (
    timedelta(seconds=10),
    timedelta(seconds=30),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=24),
)
"""After a push that could not be tried, or that APNs could not take now."""

TOPIC_PAUSE = timedelta(minutes=15)
"""While a topic is stopped or has no certificate."""

NOT_REACHABLE_YET = "no push token yet"


def record_of(
    outcome: Outcome | None,
    enrollment: str,
    earlier: PushRecord | None,
    *,
    tried_at: datetime,
    random: Callable[[], float],
) -> PushRecord:
    """The record of a push; without an `outcome` there was no token to push to. `earlier` is given where the
    sweep pushed: its backoff goes on."""
    error = NOT_REACHABLE_YET if outcome is None else outcome.reason
    alike = earlier is not None and (earlier.error is None) == (error is None)
    attempts = earlier.attempts + 1 if earlier is not None and alike else 0
    schedule: Sequence[timedelta] = SILENT
    if outcome is None or isinstance(outcome, Retry | BackOff):
        schedule = UNSENT
    elif isinstance(outcome, TopicRefused):
        schedule = (TOPIC_PAUSE,)
    wait = schedule[min(attempts, len(schedule) - 1)]
    if isinstance(outcome, BackOff) and outcome.wait is not None:
        wait = max(wait, outcome.wait)
    return PushRecord(
        enrollment=enrollment,
        tried_at=tried_at,
        next_at=tried_at + wait * (1 + random() / 10),
        attempts=attempts,
        pushed_at=tried_at if error is None else None,
        error=error,
    )
