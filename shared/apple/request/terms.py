"""The terms of a command (`shared.domain.command`), read from a request's envelope or its query string.

Every fault is noted with the name that the client used; a client's collapse key never equals one
that the server makes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

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
    """The terms that a client asks for. `supersede` is its name for that term where it wants the collapse
    key of the command's type, and empty where it does not."""

    terms: Terms = NO_TERMS
    supersede: str = ""


ASKS_NOTHING = AskedTerms()


@dataclass(frozen=True, slots=True)
class GivenTerms:
    """The terms that a request names: our name to the client's name and value."""

    given: Mapping[str, tuple[str, object]]

    def read(self, reading: Reading) -> AskedTerms:
        """The terms; what cannot be used is noted in the reading."""
        if not self.given:
            return ASKS_NOTHING
        terms = Terms(
            priority=self._priority(reading),
            expires_at=self._moment("expires_at", reading),
            ttl=self._ttl(reading),
            not_before=self._moment("not_before", reading),
            collapse_key=self._collapse_key(reading),
        )
        self._compare(terms, reading)
        return AskedTerms(terms, self._supersede(reading))

    def _name(self, term: str) -> str:
        return display_name(self.given[term][0])

    def _priority(self, reading: Reading) -> int | None:
        if "priority" not in self.given:
            return None
        value = self.given["priority"][1]
        if isinstance(value, int) and not isinstance(value, bool) and value in PRIORITIES:
            return value
        reading.fault(self._name("priority"), "a whole number from 0 (first) to 9 (last)")
        return None

    def _ttl(self, reading: Reading) -> timedelta | None:
        if "ttl" not in self.given:
            return None
        value = self.given["ttl"][1]
        # Not a boolean, which is an int to Python; nor NaN, which compares with nothing.
        if (
            type(value) is not bool
            and isinstance(value, int | float)
            and 0 < value <= _MOST_SECONDS
        ):
            return max(timedelta(seconds=value), timedelta.resolution)
        expected = f"seconds: a number above 0, and at most {_MOST_SECONDS}"
        reading.fault(self._name("ttl"), expected)
        return None

    def _moment(self, term: str, reading: Reading) -> datetime | None:
        if term not in self.given:
            return None
        found = parse_rfc3339(self.given[term][1])
        if found is None:
            expected = "a date with an offset as in RFC 3339 (2024-10-21T07:00:00Z)"
            reading.fault(self._name(term), expected)
        return found

    def _collapse_key(self, reading: Reading) -> str | None:
        if "collapse_key" not in self.given:
            return None
        return CLIENTS_OWN + read_id(
            self.given["collapse_key"][1], self._name("collapse_key"), reading
        )

    def _supersede(self, reading: Reading) -> str:
        if "supersede" not in self.given:
            return ""
        value, name = self.given["supersede"][1], self._name("supersede")
        if not isinstance(value, bool):
            reading.fault(name, "true or false")
        elif value and "collapse_key" in self.given:
            other = self._name("collapse_key")
            reading.fault(name, f"one of the two only, {other} is given too")
        return name if value is True else ""

    def _compare(self, terms: Terms, reading: Reading) -> None:
        if "expires_at" in self.given and "ttl" in self.given:
            other = self._name("expires_at")
            reading.fault(self._name("ttl"), f"one of the two only, {other} is given too")
        if terms.expires_at and terms.not_before and terms.not_before >= terms.expires_at:
            reading.fault(
                self._name("not_before"), f"a date before that of {self._name('expires_at')}"
            )


def query_terms(query: Mapping[str, str], reading: Reading) -> AskedTerms:
    """The terms in the query string of a raw command; other names in it are nobody's business."""
    given: dict[str, tuple[str, object]] = {}
    for name, text in query.items():
        term = TERMS.get(folded(name))
        if term is None:
            continue
        if term in given:
            reading.fault(display_name(name), "this parameter in one spelling only")
        given[term] = (name, _typed(term, text))
    return GivenTerms(given).read(reading)


def _typed(term: str, text: str) -> object:
    """The value that a text of a query stands for, or the text itself."""
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
