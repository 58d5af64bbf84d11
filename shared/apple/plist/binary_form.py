"""The outermost keys of a binary property list, found without building what is behind the others.

Promise: as `shared.apple.plist.xml_form`, in linear time. Refused is what readers may understand differently,
or read without an end: objects outside their place, sizes that are no plain integers, objects that
overlap, objects that contain themselves, and more levels than a message may have.
"""

import re
import struct
import sys
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

from shared.apple.plist.xml_form import MAX_DEPTH, OTHER
from shared.domain.errors import BadRequest

_TRAILER = struct.Struct(">6xBBQQQ")
_FIRST = 8
"""The first byte behind `bplist00`."""
_LONGEST_KEY = 64
"""The keys that the server reads."""
_DATA, _ASCII, _UTF16, _UID, _ARRAY, _DICTIONARY = 0x4, 0x5, 0x6, 0x8, 0xA, 0xD
_FEW = 8
"""Integers that are read one by one; an array costs as much."""
_COUNT_FOLLOWS = re.compile(rb"[\x4f\x5f\x6f\x7f\x9f\xaf\xbf\xcf\xdf\xef\xff]")
_HOLDS_OTHERS = re.compile(rb"[\xa1-\xaf\xb1-\xbf\xc1-\xcf\xd1-\xdf]")
_SINGLE = {0x00: None, 0x08: False, 0x09: True}


def outermost(body: bytes, wanted: frozenset[str]) -> list[tuple[str, Any]]:
    """The wanted pairs in their order, doubled ones too. Raises BadRequest."""
    if len(body) < _FIRST + _TRAILER.size:
        raise BadRequest("plist: cut short")
    objects = _Objects(body)
    objects.refuse_depth()
    return objects.pairs(wanted)


def refuse_hostile(body: bytes, most: int) -> None:
    """Refuse more objects than `most`, and objects that overlap: then the size of the body bounds what
    plistlib builds. Raises struct.error where it is shorter than its trailer."""
    _Objects(body, most)


class _Objects:
    """Objects are known by their numbers."""

    def __init__(self, body: bytes, most: int = sys.maxsize) -> None:
        offset_size, self._ref_size, count, self._top, self._table = _TRAILER.unpack(body[-32:])
        if not 0 < offset_size <= 8 or not 0 < self._ref_size <= 8 or self._top >= count:
            raise BadRequest("plist: a trailer that cannot be")
        end = self._table + count * offset_size
        if count > most or end > len(body) - _TRAILER.size:
            raise BadRequest("plist: too many objects")
        self._body = body
        self._offsets = _integers(body[self._table : end], offset_size)
        if min(self._offsets) < _FIRST or max(self._offsets) >= self._table:
            raise BadRequest("plist: an object outside its place")
        self._markers = bytes(map(body.__getitem__, self._offsets))
        if self._markers[self._top] >> 4 != _DICTIONARY:
            raise BadRequest("plist: the root is not a dictionary")
        self._refuse_overlaps()

    def pairs(self, wanted: frozenset[str]) -> list[tuple[str, Any]]:
        refs = self._refs(self._top)
        half = len(refs) // 2
        names = {key: self._key(key) for key in set(refs[:half])}
        names = {key: name for key, name in names.items() if name in wanted}
        return [
            (names[refs[i]], self._value(refs[half + i])) for i in range(half) if refs[i] in names
        ]

    def _refuse_overlaps(self) -> None:
        """Objects that share bytes could make a reader read the same bytes a million times."""
        plain = _plain_sizes(self._ref_size)
        room = self._table - _FIRST - sum(map(plain.__getitem__, self._markers))
        for found in _COUNT_FOLLOWS.finditer(self._markers):
            at = found.start()
            room -= self._inside(at)[1] - self._offsets[at]
            if room < 0:
                break  # the sum of all could take long
        if room < 0:
            raise BadRequest("plist: objects overlap")

    def refuse_depth(self) -> None:
        """Each object is looked into once; `levels` are those of what is done, counted from below."""
        holders = {found.start() for found in _HOLDS_OTHERS.finditer(self._markers)}
        levels = dict[int, int]()
        path, heights = [(self._top, holders.intersection(self._refs(self._top)))], [0]
        while path:
            at, waiting = path[-1]
            if waiting:
                child = waiting.pop()
                if len(path) + levels.get(child, 1) > MAX_DEPTH:
                    raise BadRequest("plist: nested too deep")
                if child not in levels:
                    inside = holders.intersection(self._refs(child))
                    if inside:
                        path.append((child, inside))
                        heights.append(0)
                        continue
                    levels[child] = 1
            else:
                path.pop()
                child = at
                levels[at] = heights.pop() + 1
            if path:
                heights[-1] = max(heights[-1], levels[child])

    def _refs(self, number: int) -> Sequence[int]:
        start, end = self._inside(number)
        return _integers(self._body[start:end], self._ref_size)

    def _inside(self, number: int) -> tuple[int, int]:
        """The begin and end of the content of an object of many parts."""
        start, marker = self._offsets[number] + 1, self._markers[number]
        count = marker & 0xF
        if count == 0xF:
            if not 0x10 <= self._body[start] <= 0x13:
                raise BadRequest("plist: a size that is no plain integer")
            size = 1 << (self._body[start] & 0xF)
            count = int.from_bytes(self._body[start + 1 : start + 1 + size], "big")
            start += 1 + size
        end = start + count * _unit(marker >> 4, self._ref_size)
        if end > self._table:
            raise BadRequest("plist: an object outside its place")
        return start, end

    def _key(self, number: int) -> str:
        """An outermost key; empty where it is longer than each that the server reads."""
        if number >= len(self._markers) or self._markers[number] >> 4 not in (_ASCII, _UTF16):
            raise BadRequest("plist: a key is not text")
        start, end = self._inside(number)
        return self._text(number) if end - start <= _LONGEST_KEY else ""

    def _value(self, number: int) -> Any:
        if number >= len(self._markers):
            raise BadRequest("plist: an object outside its place")
        marker = self._markers[number]
        if marker >> 4 == _DATA:
            start, end = self._inside(number)
            return self._body[start:end]
        if marker >> 4 in (_ASCII, _UTF16):
            return self._text(number)
        return _SINGLE.get(marker, OTHER)

    def _text(self, number: int) -> str:
        start, end = self._inside(number)
        if self._markers[number] >> 4 == _ASCII:
            return self._body[start:end].decode("ascii", "surrogateescape")
        return self._body[start:end].decode("utf-16-be", "surrogatepass")


def _unit(kind: int, ref_size: int) -> int:
    """Bytes of one part."""
    if kind == _UTF16:
        return 2
    if kind == _DICTIONARY:
        return 2 * ref_size
    return ref_size if _ARRAY <= kind < _DICTIONARY else 1


@cache
def _plain_sizes(ref_size: int) -> list[int]:
    """Bytes of an object by its marker; 0 where a size follows the marker."""
    sizes = []
    for kind in range(16):
        for low in range(16):
            if kind == 0:
                size = 1
            elif kind < _DATA:
                size = 1 + (1 << low)
            elif kind == _UID:
                size = 2 + low
            else:
                size = 0 if low == 0xF else 1 + low * _unit(kind, ref_size)
            sizes.append(size)
    return sizes


def _integers(raw: bytes, size: int) -> Sequence[int]:
    """Unsigned integers of so many bytes each, the highest byte first."""
    if size == 1:
        return raw
    if len(raw) <= _FEW * size:
        return [int.from_bytes(raw[at : at + size], "big") for at in range(0, len(raw), size)]
    word = array("H" if size == 2 else "I" if size <= 4 else "Q")
    padded = bytearray(len(raw) // size * word.itemsize)
    for index in range(size):
        padded[word.itemsize - size + index :: word.itemsize] = raw[index::size]
    word.frombytes(padded)
    if sys.byteorder == "little":
        word.byteswap()
    return word
