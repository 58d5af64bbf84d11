"""The indexes that a collection needs: adapters declare them, `Database.ensure` makes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from typing import Any

FOR_EVER = timedelta(seconds=2**31 - 1)
"""The longest that MongoDB takes: 68 years."""

_DECLARED_IN = {
    "audit": "access.audit",
    "challenges": "certificates.challenges",
    "deliveries": "events.deliveries",
    "enrollments": "enrollments.store",
    "identities": "enrollments.identities",
    "issued": "certificates.issued",
    "jobs": "queue.jobs",
    "journal": "events.journal",
    "members": "heartbeats",
    "pushes": "queue.pushes",
    "queue": "queue.documents",
    "tokens": "access.tokens",
    "webhook_history": "events.webhook_history",
}
"""The module of `shared.storage` that declares the indexes behind a port: as `INDEXES`, or as
`indexes(retention)` where a setting decides how long documents stay."""

PORTS = tuple(_DECLARED_IN)


@dataclass(frozen=True, slots=True)
class Index:
    """One index. `sparse`: without the documents that lack the field. `partial`: the same by the first of
    several fields. `expire_after`: documents leave so long after the date in the field (TTL). `of_array`:
    the first key is an array, each element of which is found. `replaces`: a former index, dropped once this
    one is made."""

    collection: str
    keys: Sequence[tuple[str, int]]
    unique: bool = False
    sparse: bool = False
    expire_after: timedelta | None = None
    of_array: bool = False
    partial: bool = False
    replaces: str = ""

    @property
    def leaves_out(self) -> bool:
        return self.sparse or self.partial

    def begins_with(self, other: "Index") -> bool:
        """True where it has further keys, and finds all that the other one does, in the same order."""
        is_plain = not (other.unique or other.of_array or other.expire_after or self.of_array)
        keys, of_other = list(self.keys), list(other.keys)
        return (
            is_plain
            and self.collection == other.collection
            and self.leaves_out == other.leaves_out
            and len(keys) > len(of_other)
            and keys[: len(of_other)] == of_other
        )

    @property
    def name(self) -> str:
        return "_".join(f"{field}_{direction}" for field, direction in self.keys)


def indexes_of(port: str, retention: timedelta | None = None) -> Sequence[Index]:
    module = _module(port)
    declared: Sequence[Index] = module.INDEXES if retention is None else module.indexes(retention)
    return declared


def all_indexes() -> list[Index]:
    """The indexes of all collections, for a store that is filled before any service has seen it. No
    document leaves by them: services set the retention when they start."""
    return [
        replace(index, expire_after=index.expire_after and FOR_EVER)
        for port in _DECLARED_IN
        for index in indexes_of(port, FOR_EVER if hasattr(_module(port), "indexes") else None)
    ]


def _module(port: str) -> Any:
    return import_module(f"shared.storage.{_DECLARED_IN[port]}")
