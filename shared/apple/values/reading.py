"""Collect every fault of a command while it is read, not just the first.

A reading is bounded: however large and wrong a request is, the list of faults, the paths in it and
the number of values looked at stay small. Values never appear in it, they may be secrets.
"""

import re
from collections.abc import Iterable

from shared.apple.plist.read import MAX_NODES
from shared.domain.errors import BadRequest, Fault
from shared.nearest import nearest

MAX_FAULTS = 50
MAX_SUGGESTIONS = 10
MAX_VALUES = MAX_NODES - 3
"""Values in one command: lists and dictionaries that are larger are refused. Its property list has three
more, `Command`, `RequestType` and `CommandUUID`, and can be read within its own limit."""
MAX_TEXT_ID = 256
RAW_ROUTE = "a command or key newer than this server can be sent as a property list: POST /v1/commands/{udid}"

# What XML cannot hold, and with it no property list.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def is_writable(text: str) -> bool:
    """False for control characters and lone surrogates, which no property list can hold."""
    return text.isprintable() or _UNWRITABLE.search(text) is None


class Reading:
    """One command being read. `exact`: only Apple's own spelling of keys is known."""

    def __init__(self, *, exact: bool = False) -> None:
        self.exact = exact
        self._faults: list[Fault] = []
        self._count = 0
        self._values = 0
        self._suggestions = 0
        self._has_unknown = False

    def fault(self, path: str, expected: str) -> None:
        self._count += 1
        if self._count <= MAX_FAULTS:
            self._faults.append(Fault(path, expected))

    def unknown(
        self, path: str, name: str, known: Iterable[str], expected: str = "a known key"
    ) -> None:
        """An unknown name; the fault names the nearest known one."""
        self._has_unknown = True
        self._suggestions += 1
        near = nearest(name, known) if self._suggestions <= MAX_SUGGESTIONS else None
        self.fault(path, f"{expected} (nearest: {near})" if near else expected)

    def spend(self, path: str, values: int) -> bool:
        """Count values that are going to be looked at; False (and a fault) when they are too many."""
        is_within = self._values <= MAX_VALUES
        self._values += values
        if is_within and self._values > MAX_VALUES:
            self.fault(path, f"no more than {MAX_VALUES} values in one command")
        return self._values <= MAX_VALUES

    def raise_faults(self) -> None:
        """Raise BadRequest if anything was wrong."""
        if not self._faults:
            return
        first = self._faults[0]
        message = f"{first.path or 'the body'}: expected {first.expected}"
        if self._count > 1:
            message += f", and {self._count - 1} more"
        if self._has_unknown:
            message += f"; {RAW_ROUTE}"
        raise BadRequest(message, self._faults)


def read_id(value: object, path: str, reading: Reading) -> str:
    """Text that names something: not empty, not long, nothing that cannot be written."""
    if isinstance(value, str) and value.strip() and len(value) <= MAX_TEXT_ID:
        if value in (".", ".."):
            reading.fault(path, "text that a path can name, so neither . nor ..")
        elif value.isprintable():
            return value
        else:
            reading.fault(path, "text without control characters")
    else:
        reading.fault(path, f"text of 1 to {MAX_TEXT_ID} characters")
    return ""
