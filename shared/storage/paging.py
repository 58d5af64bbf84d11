"""Reads of what may be any number of documents: a page at a time, along an index of a field and `_id`.

Promise: each read has its own deadline and a bounded answer. What is there from the beginning to the end
of all pages comes once, though others come and go meanwhile.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.storage.database import Collection, Document, Fields, Query

PAGE = 1000


def up_to(end: datetime) -> Callable[[datetime], Query]:
    """What is left of a closed range above a time in it."""
    return lambda time: {"$gt": time, "$lte": end}


@dataclass(frozen=True, slots=True)
class Pages:
    """Reads of one collection by one field."""

    collection: Collection
    field: str
    size: int = PAGE

    async def read(
        self, query: Query, above: Callable[[Any], Any], fields: Fields | None = None
    ) -> AsyncIterator[list[Document]]:
        """The match set in the order of the field, of which `query` has a range or a list; `above` gives what
        is left of that above one value, None where nothing is."""
        order = [(self.field, 1), ("_id", 1)]
        where = dict(query)
        while True:
            found = await self.collection.find(where, fields, sort=order, limit=self.size)
            yield found
            if len(found) == self.size:
                # The value of the last one may have more.
                last = found[-1]
                where = {**query, self.field: last[self.field], "_id": {"$gt": last["_id"]}}
            elif "_id" not in where or (left := above(where[self.field])) is None:
                return
            else:
                where = {**query, self.field: left}
