"""Read the answers of subscribers beyond success and failure."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

GONE = 410
BUSY = frozenset({429, 503})
"""Answers whose `Retry-After` counts."""
LONGEST_WAIT = timedelta(hours=1)
"""So far ahead a subscriber may put its next attempt."""
_ABOUT_THE_RECEIVER = frozenset({401, 403, 404, 408, GONE, 425, 429})


def is_about_event(status: int) -> bool:
    """True if the subscriber may have refused this event, and not all of them."""
    return status == 500 or (400 <= status < 500 and status not in _ABOUT_THE_RECEIVER)


def wait_asked(value: str, now: datetime) -> timedelta:
    """The wait that a `Retry-After` asks for, in seconds or as a date, from zero to `LONGEST_WAIT`. Raises
    ValueError where it cannot be read."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(timedelta(seconds=min(int(value), 2**31)), LONGEST_WAIT)
    try:
        date = parsedate_to_datetime(value)
        left = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    except (TypeError, IndexError, OverflowError) as exc:
        raise ValueError("no date of HTTP") from exc
    return min(max(left, timedelta()), LONGEST_WAIT)
