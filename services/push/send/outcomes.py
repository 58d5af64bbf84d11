"""The answers of APNs, as a closed set of outcomes.

Promise: every answer, and every way not to get one, is exactly one of these; `classify` never raises,
whatever bytes came back.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

TOPIC_FAULTS = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Accepted:
    """APNs took the push; it says nothing of whether the device will ever get it."""

    apns_id: str


@dataclass(frozen=True, slots=True)
class TokenDead:
    """The token is not in use. `since`: APNs knows this from then on; None: it did not say."""

    reason: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class TopicRefused:
    """Our certificate may not push to this topic: no push of it can work now."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackOff:
    """Too many pushes to this one device."""

    reason: str
    wait: timedelta | None


@dataclass(frozen=True, slots=True)
class Retry:
    """APNs cannot do it now, or was not reached: the same push may work in a moment."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unanswered(Retry):
    """No answer came: there was no connection, or it broke."""


@dataclass(frozen=True, slots=True)
class Unreachable(Unanswered):
    """APNs was not even asked, because it cannot be reached: trying at once again is no use."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something about this one push is wrong, for a reason that says nothing of the token."""

    reason: str


Failure = TokenDead | TopicRefused | BackOff | Retry | Rejected
Outcome = Accepted | Failure


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """The outcome that an HTTP answer of APNs stands for."""
    if status == 200:
        return Accepted(headers.get("apns-id", ""))
    answer = _object(body)
    said = answer.get("reason")
    word = said if isinstance(said, str) and said.isalnum() and len(said) <= 64 else ""
    reason = f"{status} {word}".rstrip()
    if status == 410:
        return TokenDead(reason, _time(answer.get("timestamp")))
    if status == 429:
        return BackOff(reason, _seconds(headers.get("retry-after", "")))
    return _plain(status, word)(reason)


def _plain(status: int, word: str) -> Callable[[str], Failure]:
    if word == "BadDeviceToken":
        return lambda reason: TokenDead(reason, None)
    if status == 403 or word in TOPIC_FAULTS:
        return TopicRefused
    return Retry if status >= 500 else Rejected


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
