"""The answers of APNs, as a closed set of outcomes, and when the sweep pushes again after each.

Promises: every answer, and every way not to get one, is exactly one of these; `classify` never raises; a
device that never answers costs less and less, one that only waits for its token is pushed within seconds
of getting it, and a whole fleet does not come due in the same second.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from shared.ports.pushes import PushRecord
from shared.telemetry.metrics import PushOutcome

TOPIC_FAULTS = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})
LONGEST_WAIT = timedelta(days=1)

SILENT = (
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=24),
)
"""After a push that APNs took, and after one that only a change of the device can mend."""

UNSENT = (timedelta(seconds=10), timedelta(seconds=30), timedelta(minutes=1), *SILENT)
"""After a push that could not be tried, or that APNs could not take now."""

TOPIC_PAUSE = timedelta(minutes=15)
"""While a topic is stopped or has no certificate."""

NOT_REACHABLE_YET = "no push token yet"


@dataclass(frozen=True, slots=True)
class Accepted:
    """APNs took the push; it says nothing of whether the device will ever get it."""

    apns_id: str
    reason: ClassVar[None] = None
    counted_as: ClassVar = PushOutcome.SENT
    waits: ClassVar[Sequence[timedelta]] = SILENT


@dataclass(frozen=True)
class Failure:
    """APNs did not take the push: what went wrong, for a log and an API client."""

    reason: str
    counted_as: ClassVar[PushOutcome] = PushOutcome.REFUSED
    waits: ClassVar[Sequence[timedelta]] = SILENT


@dataclass(frozen=True)
class TokenDead(Failure):
    """The token is not in use. `since`: APNs knows this from then on; None: it did not say."""

    since: datetime | None
    counted_as: ClassVar = PushOutcome.DEAD_TOKEN


class TopicRefused(Failure):
    """Our certificate may not push to this topic: no push of it can work now."""

    waits = (TOPIC_PAUSE,)


@dataclass(frozen=True)
class BackOff(Failure):
    """Too many pushes to this one device."""

    wait: timedelta | None
    counted_as: ClassVar = PushOutcome.THROTTLED
    waits: ClassVar = UNSENT


class Retry(Failure):
    """APNs cannot do it now, or was not reached: the same push may work in a moment."""

    counted_as = PushOutcome.FAILED
    waits = UNSENT


class Unanswered(Retry):
    """No answer came: there was no connection, or it broke."""


class Unreachable(Unanswered):
    """APNs was not even asked, because it cannot be reached: trying at once again is no use."""


class Rejected(Failure):
    """Something about this one push is wrong, for a reason that says nothing of the token."""


Outcome = Accepted | Failure


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    if status == 200:
        return Accepted(headers.get("apns-id", ""))
    answer = _object(body)
    said = answer.get("reason")
    word = said if isinstance(said, str) and said.isalnum() and len(said) <= 64 else ""
    reason = f"{status} {word}".rstrip()
    match status, word:
        case 410, _:
            return TokenDead(reason, _time(answer.get("timestamp")))
        case 429, _:
            return BackOff(reason, _seconds(headers.get("retry-after", "")))
        case _, "BadDeviceToken":
            return TokenDead(reason, None)
    if status == 403 or word in TOPIC_FAULTS:
        return TopicRefused(reason)
    return Retry(reason) if status >= 500 else Rejected(reason)


def record_of(
    outcome: Outcome | None,
    enrollment: str,
    earlier: PushRecord | None,
    tried_at: datetime,
    random: float,
) -> PushRecord:
    """The record of a push; without an `outcome` there was no token to push to. `earlier` is given where the
    sweep pushed: its backoff goes on."""
    error = NOT_REACHABLE_YET if outcome is None else outcome.reason
    alike = earlier is not None and (earlier.error is None) == (error is None)
    attempts = earlier.attempts + 1 if earlier is not None and alike else 0
    schedule = UNSENT if outcome is None else outcome.waits
    wait = schedule[min(attempts, len(schedule) - 1)]
    if isinstance(outcome, BackOff) and outcome.wait is not None:
        wait = max(wait, outcome.wait)
    return PushRecord(
        enrollment=enrollment,
        tried_at=tried_at,
        next_at=tried_at + wait * (1 + random / 10),
        attempts=attempts,
        pushed_at=tried_at if error is None else None,
        error=error,
    )


def _object(body: bytes) -> dict[str, object]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _time(milliseconds: object) -> datetime | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _seconds(text: str) -> timedelta | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(timedelta(seconds=int(text)), LONGEST_WAIT)
