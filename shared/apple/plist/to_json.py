"""A property list as JSON, for people and programs that read a device's answer.

Promises: data is base64, a date is RFC 3339 in UTC, a number stays what it is; the result is of
bounded size. A list within the limits of `shared.apple.plist.read` may still be far larger as JSON than as
it was sent, because a long string that is there once may be meant a thousand times.
"""

import math
import re
from base64 import b64encode
from datetime import datetime
from plistlib import UID
from typing import Any

import orjson

from shared.apple.plist.read import parse
from shared.domain.errors import BadRequest
from shared.times import rfc3339

MOST_CHARACTERS = 8 * 1024**2
"""Characters of all texts in one result; as many as four times the largest answers of a usual fleet."""

_DATES = re.compile(rb"<date>(-?[0-9]{4,6}-[0-9TZ:-]{1,20})</date>")
_LEAST, _MOST = -(2**63), 2**64 - 1


class TooLargeToShow(Exception):
    """The property list is too large as JSON."""


def as_json(value: Any, limit: int = MOST_CHARACTERS) -> Any:
    """A parsed property list, or a part of it, as JSON. Raises TooLargeToShow."""
    return _Showing(limit).shown(value)


def parse_message(raw: bytes) -> Any:
    """A device's property list; dates that Python has not are text. Raises BadRequest."""
    try:
        return parse(raw)
    except BadRequest:
        if not _DATES.search(raw):
            raise
        return parse(_DATES.sub(rb"<string>\1</string>", raw))


def message_as_json(
    raw: bytes, limit: int = MOST_CHARACTERS
) -> tuple[dict[str, Any] | None, str | None]:
    """The message of a device as JSON, or None and why not."""
    try:
        return as_json(parse_message(raw), limit), None
    except BadRequest as exc:
        return None, str(exc)
    except TooLargeToShow:
        return None, "plist: too large to show as JSON"


class _Showing:
    """Counts what it has written."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def shown(self, value: Any) -> Any:
        match value:
            case dict():
                return {self._text(name): self.shown(each) for name, each in value.items()}
            case list():
                return [self.shown(each) for each in value]
            case str():
                return self._text(value)
            case bytes():
                self._spend(len(value) * 4 // 3)
                return b64encode(value).decode("ascii")
        return self._small(value)

    def _small(self, value: Any) -> Any:
        match value:
            case datetime():
                return rfc3339(value)
            case UID():
                return {"CF$UID": self._number(value.data)}
            case float():
                return value if math.isfinite(value) else None
        return self._number(value)

    def _text(self, value: str) -> str:
        self._spend(len(value))
        # A lone surrogate, which UTF-8 cannot carry, becomes a question mark.
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")

    def _number(self, value: int) -> Any:
        """A boolean too, which is within the limits."""
        if _LEAST <= value <= _MOST:
            return value
        text = str(value)
        self._spend(len(text))
        return orjson.Fragment(text)

    def _spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise TooLargeToShow
