"""The terms of a command (`shared.domain.command`), read from a request's envelope or its query string.

Every fault is noted with the name that the client used; a client's collapse key never equals one
that the server makes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from shared.apple.values.reading import Reading, read_id
from shared.domain.command import Terms
from shared.domain.errors import display_name
from shared.nearest import folded
from shared.times import parse_rfc3339

PRIORITIES = range(10)
MAX_TTL = timedelta(days=365)
_MOST_SECONDS = int(MAX_TTL.total_seconds())
CLIENTS_OWN = "client:"
"""In front of a collapse key that a client gave; the server's own begin with a request type."""

TERMS: Mapping[str, str] = {
    folded(name): name
    for name in ("priority", "expires_at", "ttl", "not_before", "collapse_key", "supersede")
}
"""Our names by what their spellings have in common."""

_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class AskedTerms:
    """The terms that a client asks for: `stated` has those fields of `Terms`. `supersede` is its name for
    that term where it wants the collapse key of the command's type, and empty where it does not."""

    stated: Mapping[str, Any] = field(default_factory=dict)
    supersede: str = ""


Given = Mapping[str, tuple[str, object]]


def read_terms(given: Given, reading: Reading) -> AskedTerms:
    """The terms that a request names: our name to the client's name and value."""
    if not given:
        return AskedTerms()
    names = {term: display_name(name) for term, (name, _) in given.items()}
    stated: dict[str, Any] = {
        term: read(given[term][1], names[term], reading)
        for term, read in _READERS.items()
        if term in given
    }
    if "expires_at" in given and "ttl" in given:
        reading.fault(names["ttl"], f"one of the two only, {names['expires_at']} is given too")
    begin, end = stated.get("not_before"), stated.get("expires_at")
    if begin and end and begin >= end:
        reading.fault(names["not_before"], f"a date before that of {names['expires_at']}")
    return AskedTerms(stated, _supersede(given, names, reading))


def _supersede(given: Given, names: Mapping[str, str], reading: Reading) -> str:
    if "supersede" not in given:
        return ""
    value, name = given["supersede"][1], names["supersede"]
    if not isinstance(value, bool):
        reading.fault(name, "true or false")
    elif value and "collapse_key" in given:
        reading.fault(name, f"one of the two only, {names['collapse_key']} is given too")
    return name if value is True else ""


def _priority(value: object, path: str, reading: Reading) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value in PRIORITIES:
        return value
    reading.fault(path, "a whole number from 0 (first) to 9 (last)")
    return None


def _ttl(value: object, path: str, reading: Reading) -> timedelta | None:
    # Not a boolean, which is an int to Python; nor NaN, which compares with nothing.
    if type(value) is not bool and isinstance(value, int | float) and 0 < value <= _MOST_SECONDS:
        return max(timedelta(seconds=value), timedelta.resolution)
    reading.fault(path, f"seconds: a number above 0, and at most {_MOST_SECONDS}")
    return None


def _moment(value: object, path: str, reading: Reading) -> datetime | None:
    found = parse_rfc3339(value)
    if found is None:
        reading.fault(path, "a date with an offset as in RFC 3339 (2024-10-21T07:00:00Z)")
    return found


_READERS: Mapping[str, Callable[[object, str, Reading], object]] = {
    "priority": _priority,
    "expires_at": _moment,
    "ttl": _ttl,
    "not_before": _moment,
    "collapse_key": lambda value, path, reading: CLIENTS_OWN + read_id(value, path, reading),
}


def query_terms(query: Mapping[str, str], reading: Reading) -> AskedTerms:
    """The terms in the query string of a raw command; other names in it are ignored."""
    given: dict[str, tuple[str, object]] = {}
    for name, text in query.items():
        term = TERMS.get(folded(name))
        if term is None:
            continue
        if term in given:
            reading.fault(display_name(name), "this parameter in one spelling only")
        given[term] = (name, _typed(term, text))
    return read_terms(given, reading)


def _typed(term: str, text: str) -> object:
    """The value that a text of a query means, or the text itself."""
    match term:
        case "priority":
            return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else text
        case "ttl":
            return float(text) if _NUMBER.fullmatch(text) else text
        case "supersede":
            return {"true": True, "false": False}.get(text, text)
        case "expires_at" | "not_before":
            return text.replace(" ", "+")  # a plus sign that was not escaped arrives as a space
    return text
