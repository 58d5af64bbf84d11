"""The backoff of the sweep, as data.

Promise: a device that never answers costs less and less, one that only waits for its token is pushed
within seconds of getting it, and a whole fleet does not come due in the same second.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from services.push.send.outcomes import Accepted, BackOff, Outcome, Retry, TopicRefused
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

SPREAD = 0.1

NOT_REACHABLE_YET = "no push token yet"


def steps(outcome: Outcome | None) -> Sequence[timedelta]:
    """The schedule that follows an outcome; None: there was no token to push to."""
    if outcome is None or isinstance(outcome, Retry | BackOff):
        return UNSENT
    if isinstance(outcome, TopicRefused):
        return (TOPIC_PAUSE,)
    return SILENT


def record_of(
    outcome: Outcome | None,
    enrollment: str,
    earlier: PushRecord | None,
    *,
    tried_at: datetime,
    random: Callable[[], float],
) -> PushRecord:
    """The record of a push. `earlier` is given where the sweep pushed: its backoff goes on."""
    error = None if isinstance(outcome, Accepted) else _error(outcome)
    alike = earlier is not None and (earlier.error is None) == (error is None)
    attempts = earlier.attempts + 1 if earlier is not None and alike else 0
    schedule = steps(outcome)
    wait = schedule[min(attempts, len(schedule) - 1)]
    if isinstance(outcome, BackOff) and outcome.wait is not None:
        wait = max(wait, outcome.wait)
    return PushRecord(
        enrollment=enrollment,
        tried_at=tried_at,
        next_at=tried_at + wait * (1 + SPREAD * random()),
        attempts=attempts,
        pushed_at=tried_at if error is None else None,
        error=error,
    )


def _error(outcome: Outcome | None) -> str:
    return NOT_REACHABLE_YET if outcome is None else getattr(outcome, "reason", "refused")
