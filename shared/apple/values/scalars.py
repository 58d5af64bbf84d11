"""The simple kinds of values in commands: JSON in, property list out.

`convert` gives a pair: the value for the property list, and the value for the answer to the client.
What does not fit is noted in the reading; the pair means nothing then.
"""

import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shared.apple.values.reading import Reading, is_writable
from shared.apple.values.systems import Systems
from shared.times import parse_rfc3339

Pair = tuple[object, object]
NOTHING: Pair = (None, None)
INTEGERS = (-(2**63), 2**63 - 1)
MAX_UNSIGNED = 2**64 - 1
"""The largest integer of a property list; JSON fields of a known key end at the signed one."""

_NUMBER = re.compile(r"-?[0-9]{1,19}")


class Value(Protocol):
    """One kind of value, compiled from the catalogue."""

    def convert(self, value: object, path: str, reading: Reading) -> Pair: ...


def listed(allowed: tuple[object, ...]) -> str:
    return "one of " + ", ".join(map(str, allowed))


@dataclass(frozen=True, slots=True)
class Text:
    """`takes_number`: MicroMDM has a number here, so that is taken too, and sent as text. `known`: the values
    that Apple lists, and their systems; newer systems know more."""

    allowed: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    takes_number: bool = False
    known: Mapping[str, Systems] = field(default_factory=dict)

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if self.takes_number and isinstance(value, int) and not isinstance(value, bool):
            return str(value), value
        if not isinstance(value, str):
            reading.fault(path, "text")
        elif self.allowed and value not in self.allowed:
            reading.fault(path, listed(self.allowed))
        elif self.pattern and not self.pattern.fullmatch(value):
            reading.fault(path, f"text like {self.pattern.pattern}")
        elif not is_writable(value):
            reading.fault(path, "text without control characters and lone surrogates")
        return value, value


@dataclass(frozen=True, slots=True)
class Integer:
    """`takes_text`: MicroMDM has text here, so a number as text is taken too."""

    allowed: tuple[int, ...] = ()
    lowest: int = INTEGERS[0]
    highest: int = INTEGERS[1]
    takes_text: bool = False

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        number = value
        if self.takes_text and isinstance(value, str) and _NUMBER.fullmatch(value):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool):
            reading.fault(path, "a whole number")
        elif self.allowed and number not in self.allowed:
            reading.fault(path, listed(self.allowed))
        elif not self.lowest <= number <= self.highest:
            reading.fault(path, f"a whole number from {self.lowest} to {self.highest}")
        return number, value


@dataclass(frozen=True, slots=True)
class Real:
    lowest: float = -math.inf
    highest: float = math.inf

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if not isinstance(value, int | float) or isinstance(value, bool):
            reading.fault(path, "a number")
            return NOTHING
        if (abs(value) > MAX_UNSIGNED and isinstance(value, int)) or not math.isfinite(value):
            reading.fault(path, "a number that can be kept exactly")
            return NOTHING
        if not self.lowest <= value <= self.highest:
            reading.fault(path, f"a number from {self.lowest} to {self.highest}")
        return float(value), value


@dataclass(frozen=True, slots=True)
class Boolean:
    """`takes_text`: MicroMDM's own scripts send "true" and "false" here."""

    takes_text: bool = False

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if self.takes_text and value in ("true", "false"):
            return value == "true", value
        if not isinstance(value, bool):
            reading.fault(path, "true or false")
        return value, value


@dataclass(frozen=True, slots=True)
class Data:
    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        decoded = decode_base64(value)
        if decoded is None:
            reading.fault(path, "base64 text (standard alphabet, padded)")
            return NOTHING
        return decoded


@dataclass(frozen=True, slots=True)
class Date:
    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        found = parse_rfc3339(value)
        if found is not None:
            return found.replace(tzinfo=None), value
        reading.fault(path, "a date as in RFC 3339 (2024-10-21T07:00:00Z)")
        return NOTHING


def decode_base64(value: object) -> tuple[bytes, str] | None:
    """The bytes and the text without line ends; None for anything but padded standard base64."""
    if not isinstance(value, str):
        return None
    text = value.replace("\r", "").replace("\n", "") if "\n" in value or "\r" in value else value
    try:
        return binascii.a2b_base64(text, strict_mode=True), text
    except ValueError:
        return None
