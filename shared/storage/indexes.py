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
}
"""The module of `shared.storage` that declares the indexes behind a port: as `INDEXES`, or as
`indexes(retention)` where a setting decides how long documents stay."""


@dataclass(frozen=True, slots=True)
class Index:
    """One index. `sparse`: documents without the field are left out (so a field that is unset costs
    nothing and is not found). `partial`: the same of the first of several fields, whichever of the others
    a document has. `expire_after`: documents leave by themselves so long after the
    date in the field (TTL). `of_array`: the first key is an array, and each of its elements is found.
    `replaces`: the name of a former index that this one serves for, which goes once this one is made."""

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
        """Documents without its first field are not in it."""
        return self.sparse or self.partial

    @property
    def name(self) -> str:
        return "_".join(f"{field}_{direction}" for field, direction in self.keys)


def indexes_of(port: str, retention: timedelta | None = None) -> Sequence[Index]:
    """The indexes behind a port; `retention` only where a setting decides it."""
    module = _module(port)
    declared: Sequence[Index] = module.INDEXES if retention is None else module.indexes(retention)
    return declared


def all_indexes() -> list[Index]:
    """The indexes of all collections, for a store that is filled before any service has seen it.

    Promise: no document leaves by them. Services set the retention when they start.
    """
    return [
        replace(index, expire_after=index.expire_after and FOR_EVER)
        for port in _DECLARED_IN
        for index in indexes_of(port, FOR_EVER if hasattr(_module(port), "indexes") else None)
    ]


def _module(port: str) -> Any:
    return import_module(f"shared.storage.{_DECLARED_IN[port]}")
