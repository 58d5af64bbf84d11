"""Names what is JSON and still refused: doubled keys, and numbers that cannot be kept.

Promises: the body is read once more and looked through once, whatever is wrong with it; at most
`MOST_NAMED` faults are named, each with its path.
"""

import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NoReturn

from shared.apple.values.reading import Reading
from shared.apple.values.scalars import INTEGERS, MAX_UNSIGNED
from shared.domain.errors import BadRequest, key_path

MOST_NAMED = 10

LONG = 20
"""Digits from which on a number must be looked at: 2^64 has as many."""


def fits(integer: str) -> bool:
    """True for a number of at most 64 bits."""
    return len(integer) <= LONG and INTEGERS[0] <= int(integer) <= MAX_UNSIGNED


def refuse_doubtful(text: str) -> NoReturn:
    """Raises BadRequest."""
    try:
        _Doubts().report(text)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None


class _TooLarge:
    """Stands for a number that cannot be kept."""


class _Doubled(dict[str, object]):
    """An object in which keys stood twice; `names` are the first of them."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.names = list(islice(_doubled(name for name, _ in pairs), MOST_NAMED))


def _doubled(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


_NOT_PLAIN = (dict, list, _TooLarge)


class _Doubts:
    def __init__(self) -> None:
        self._noted = 0
        self._found = 0
        self._named = 0
        self._reading = Reading()
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_int=lambda text: None if len(text) < LONG or fits(text) else self._number(),
            parse_float=lambda text: None if math.isfinite(float(text)) else self._number(),
            parse_constant=lambda _: self._number(),
        )

    def report(self, text: str) -> NoReturn:
        """Raises BadRequest."""
        self._look_at(self._decoder.decode(text), "")
        self._reading.raise_faults()
        raise BadRequest("the body has a key twice in one object, or a number beyond 64 bits")

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) == len(pairs) or self._noted >= MOST_NAMED:
            return found
        self._noted += 1
        return _Doubled(pairs)

    def _number(self) -> object:
        if self._noted >= MOST_NAMED:
            return None
        self._noted += 1
        return _TooLarge()

    def _look_at(self, value: object, path: str) -> None:
        """Find what was noted, and with it the way there."""
        if isinstance(value, list):
            self._look_into(enumerate(value), path)
        elif isinstance(value, _Doubled):
            self._found += 1
            for name in value.names:
                self._name(key_path(path, name), "this key only once")
            self._look_into(value.items(), path)
        elif isinstance(value, dict):
            self._look_into(value.items(), path)
        elif isinstance(value, _TooLarge):
            self._found += 1
            self._name(path, "a number of at most 64 bits")

    def _look_into(self, values: Iterable[tuple[int | str, object]], path: str) -> None:
        for key, value in values:
            if self._found == self._noted:
                return
            if isinstance(value, _NOT_PLAIN):
                self._look_at(
                    value, f"{path}[{key}]" if isinstance(key, int) else key_path(path, key)
                )

    def _name(self, path: str, expected: str) -> None:
        if self._named < MOST_NAMED:
            self._reading.fault(path, expected)
        self._named += 1
