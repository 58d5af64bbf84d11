"""Why a property list cannot be read: which line, or which key and what belongs there.

Promise: the one place that words such errors. A reason shows keys, never values, and no class of Python's.
"""

import re
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NoReturn
from xml.parsers import expat

from shared.apple.plist.xml_form import without_surroundings
from shared.domain.errors import BadRequest, key_path, unfit

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def unreadable(body: bytes, error: Exception) -> BadRequest:
    """Why `body`, as it was sent, made plistlib or expat raise this error."""
    if body[:8] == b"bplist00":
        return BadRequest("plist: is broken, or holds a date outside the years 1 to 9999")
    document = without_surroundings(body)
    if not document.lstrip(b"\xff\xfe\0").startswith(b"<"):
        return BadRequest("plist: is no property list")
    lines_before = body.count(b"\n", 0, body.find(document[:1]))
    if isinstance(error, expat.ExpatError):
        return _at_line(lines_before + error.lineno, expat.ErrorString(error.code))
    return _Search(lines_before).fault_of(document)


def _at_line(number: int, reason: str) -> BadRequest:
    return BadRequest(f"plist: line {number}: {reason}")


def _date(text: str) -> datetime:
    if not _DATE.match(text):
        raise ValueError
    return datetime.fromisoformat(text[:20])


_READERS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "integer": ("an integer", lambda text: int(text, 16 if text[:2] in ("0x", "0X") else 10)),
    "real": ("a number", float),
    "date": ("a date in the years 1 to 9999, such as 2026-01-02T03:04:05Z", _date),
    "data": ("base64", a2b_base64),
}


class _Search:
    """Reads the document once more, up to what is wrong; `_around` are the dictionaries and lists around a
    value, each as the key (None between a value and a key) or the number of what comes in it."""

    def __init__(self, lines_before: int) -> None:
        self._lines_before = lines_before
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        entity = "a declaration of an entity, which no property list may have"
        self._parser.EntityDeclHandler = lambda *_declared: self._raise(entity)
        self._pieces = list[str]()
        self._parser.CharacterDataHandler = self._pieces.append
        self._around = list[str | int | None]()

    def fault_of(self, body: bytes) -> BadRequest:
        try:
            self._parser.Parse(body, True)
        except BadRequest as exc:
            return exc
        except (expat.ExpatError, ValueError, LookupError):  # such as an unknown encoding
            pass
        return BadRequest("plist: is no property list")

    def _begin(self, tag: str, _attributes: object) -> None:
        self._pieces.clear()
        if tag in ("dict", "array"):
            self._must_have_key()
            self._around.append(None if tag == "dict" else 0)

    def _end(self, tag: str) -> None:
        if tag in ("dict", "array"):
            if isinstance(self._around.pop(), str):
                self._raise("a key without a value")
        elif tag == "key":
            self._key("".join(self._pieces))
            return
        elif tag in _READERS:
            self._must_be_readable(tag)
        elif tag not in ("string", "true", "false"):
            return
        self._must_have_key()
        if self._around:
            at = self._around[-1]
            self._around[-1] = at + 1 if isinstance(at, int) else None

    def _key(self, name: str) -> None:
        if not self._around or self._around[-1] is not None:
            self._raise("a key where a value belongs")
        self._around[-1] = name

    def _must_have_key(self) -> None:
        if self._around and self._around[-1] is None:
            self._raise("a value without a key")

    def _must_be_readable(self, tag: str) -> None:
        expected, read = _READERS[tag]
        try:
            read("".join(self._pieces))
        except ValueError:
            path = ""
            for each in self._around:
                path = f"{path}[{each}]" if isinstance(each, int) else key_path(path, each or "")
            raise unfit(path or "plist", expected) from None

    def _raise(self, reason: str) -> NoReturn:
        raise _at_line(self._lines_before + self._parser.CurrentLineNumber, reason)
