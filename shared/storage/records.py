"""Documents from dataclasses and back, by the names of their fields."""

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, cast

from shared.storage.database import Document

Record = TypeVar("Record")


def given(values: Mapping[str, Any]) -> Document:
    """The values that are not None: an absent field costs nothing and is in no sparse index."""
    return {name: value for name, value in values.items() if value is not None}


def record(kind: type[Record], document: Mapping[str, Any], **values: Any) -> Record:
    """A dataclass with `values`, and the other fields from the document by their names. Unknown fields of
    the document are ignored; a field that it lacks has its default."""
    names = _names(cast(Hashable, kind))
    stored = {name: document[name] for name in names if name in document}
    return kind(**{**stored, **values})


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
