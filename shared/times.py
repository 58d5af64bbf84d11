"""Times as this project keeps and writes them."""

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime.min.replace(tzinfo=UTC)
"""The first of all dates, and Go's zero time: where a range of dates begins that clients give."""

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def to_milliseconds(moment: datetime) -> datetime:
    """Cut a time to milliseconds, the precision of the store."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def nanoseconds(moment: datetime) -> int:
    """Nanoseconds since the epoch, the unit of an event's time."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def from_nanoseconds(at: int) -> datetime:
    """Back from `nanoseconds`."""
    return EPOCH + timedelta(microseconds=at // 1000)


def rfc3339(moment: datetime) -> str:
    """Write a time in UTC. One without an offset, as in property lists, is in UTC."""
    known = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return known.isoformat().replace("+00:00", "Z")


def rfc3339_or_null(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def parse_rfc3339(value: object) -> datetime | None:
    """The time in UTC that a text in RFC 3339 names; None for anything else."""
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    return None


def event_ids_from(moment: datetime) -> str:
    """The first part of the ids (UUIDv7) of events since a time: earlier ones sort before it."""
    milliseconds = max(0, (moment - EPOCH) // timedelta(milliseconds=1))
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}"


def time_of_event(event_id: str) -> datetime | None:
    """The time in the id (UUIDv7) of an event; None where it is no such id."""
    try:
        return EPOCH + timedelta(milliseconds=int(event_id.replace("-", "")[:12], 16))
    except (ValueError, OverflowError):
        return None
