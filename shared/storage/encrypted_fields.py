"""The encrypted fields of each collection. Each owner declares its own; key rotation goes over all.

Promise: a value can be decrypted only where it was encrypted: the context (`encryption_context`) is
authenticated with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EncryptedFields:
    """The encrypted fields of a collection, by their dotted paths; any of them may be absent.

    `texts` are those that are text in clear. `where` finds the documents that can have any.
    """

    collection: str
    fields: Sequence[str]
    texts: frozenset[str] = frozenset()
    where: Mapping[str, Any] = field(default_factory=dict)


def encryption_context(collection: str, key: str, path: str) -> str:
    """The context under which a value is encrypted: neither collection nor path holds a slash."""
    return f"{collection}/{key}/{path}"
