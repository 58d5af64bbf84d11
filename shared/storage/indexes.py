"""The indexes that a collection needs: adapters list them as `INDEXES`, `Database.ensure` makes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


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
