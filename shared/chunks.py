"""Sequences in pieces of a bounded size."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def chunked(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in their order, at most `size` together. Python 3.12 has `itertools.batched`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
