"""Which fields of which documents are sealed: each owner declares its own, rotation goes over all.

Promise: where a sealed value stands is part of it (`place`), so that no value opens anywhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SealedFields:
    """The sealed fields of a collection, by their dotted paths; any of them may be absent.

    `texts` are those that are text in clear. `where` finds the documents that can have any.
    """

    collection: str
    fields: Sequence[str]
    texts: frozenset[str] = frozenset()
    where: Mapping[str, Any] = field(default_factory=dict)


def place(collection: str, key: str, path: str) -> str:
    """The context under which a value is sealed: neither collection nor path holds a slash."""
    return f"{collection}/{key}/{path}"
