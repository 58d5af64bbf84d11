"""The query string of a list of commands, and the cursor in it.

Promises: all that is wrong is told at once, by its name; names that nobody knows are ignored. A cursor
is text that clients hand back as they got it.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.datastructures import QueryParams

from services.commands.history.listing import ListQuery, Position
from shared.apple.values.reading import MAX_TEXT_ID, Reading, is_writable
from shared.apple.values.scalars import query_moment
from shared.domain.command import EntryState
from shared.times import EPOCH
from shared.web.api.cursor import EXPECTED, read_cursor, write_cursor

DEFAULT_LIMIT = 100
MOST = 1000
_CURSOR = re.compile(r"([0-9]{1,17})\.([0-9A-Za-z-]{0,64})")
_LATEST = 4102444800 * 10**6
"""A cursor's time in microseconds is before the year 2100."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`udid` is any name of an enrollment."""

    query: ListQuery
    udid: str | None


def read_list_request(given: QueryParams) -> ListRequest:
    """Raises BadRequest with every fault."""
    reading = Reading()
    query = ListQuery(
        limit=_limit(given.get("limit"), reading),
        states=_states(given.getlist("state"), reading),
        request_type=_text("request_type", given, reading),
        since=_moment("since", given, reading),
        until=_moment("until", given, reading),
        after=_position(given.get("cursor"), reading),
    )
    request = ListRequest(query, _text("udid", given, reading))
    reading.raise_faults()
    return request


def cursor(position: Position) -> str:
    microseconds = (position.accepted_at - EPOCH) // timedelta(microseconds=1)
    return write_cursor(f"{microseconds}.{position.order}")


def _position(given: str | None, reading: Reading) -> Position | None:
    if not given:
        return None
    match = _CURSOR.fullmatch(read_cursor(given) or "")
    if match is None or int(match[1]) > _LATEST:
        reading.fault("cursor", EXPECTED)
        return None
    return Position(EPOCH + timedelta(microseconds=int(match[1])), match[2])


def _states(given: list[str], reading: Reading) -> frozenset[EntryState] | None:
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    known = {state.value for state in EntryState}
    if not known.issuperset(names):
        reading.fault("state", "one or several of " + ", ".join(EntryState))
        return None
    return frozenset(map(EntryState, names)) or None


def _limit(given: str | None, reading: Reading) -> int:
    if not given:
        return DEFAULT_LIMIT
    if given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= MOST:
        return int(given)
    reading.fault("limit", f"a whole number from 1 to {MOST}")
    return DEFAULT_LIMIT


def _moment(name: str, given: QueryParams, reading: Reading) -> datetime | None:
    text = given.get(name)
    if not text:
        return None
    found = query_moment(text)
    if found is None or not EPOCH <= found <= EPOCH + timedelta(microseconds=_LATEST):
        reading.fault(name, "a date with an offset as in RFC 3339 (2024-10-21T07:00:00Z)")
        return None
    return found


def _text(name: str, given: QueryParams, reading: Reading) -> str | None:
    text = given.get(name)
    if text and (len(text) > MAX_TEXT_ID or not is_writable(text)):
        reading.fault(name, f"at most {MAX_TEXT_ID} characters, none of them a control character")
        return None
    return text or None
