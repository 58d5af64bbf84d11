"""Indexes of MongoDB's collections, made by the first process that starts, safely beside an older version."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pymongo
from pymongo.errors import OperationFailure

from shared.domain.errors import StoreUnavailable
from shared.storage.indexes import Index
from shared.storage.mongo.errors import driver_errors

BUILD_DEADLINE = timedelta(hours=1)
"""In place of the client's: an index of a large collection takes its time to build."""

_CONFLICTS = {85, 86}  # IndexOptionsConflict, IndexKeySpecsConflict


async def ensure(raw: Any, index: Index) -> None:
    """Make the index of this collection if it is not there, or change it, and drop the one that it
    replaces. Raises StoreUnavailable."""
    with driver_errors():
        # Within the ordinary deadline: a store that hangs is not waited for as a build is.
        known = await raw.index_information()
    there = known.get(index.name, {})
    if not there or any(there.get(name) != value for name, value in _options(index).items()):
        await _make(raw, index)
    if index.replaces in known:
        with driver_errors(), suppress(OperationFailure):  # another process may have been faster
            await raw.drop_index(index.replaces)


async def _make(raw: Any, index: Index) -> None:
    with driver_errors(), pymongo.timeout(BUILD_DEADLINE.total_seconds()):
        if await _is_made(raw, index):
            return
        if index.expire_after is not None:
            # In place, where a new index would take long. A server that cannot do it rebuilds it.
            change = {"name": index.name, "expireAfterSeconds": _seconds(index.expire_after)}
            with suppress(OperationFailure):
                await raw.database.command("collMod", raw.name, index=change)
        if not await _is_made(raw, index):
            await raw.drop_index(index.name)
            if not await _is_made(raw, index):
                raise StoreUnavailable(f"index {index.name} of {raw.name} is changed by others")


async def _is_made(raw: Any, index: Index) -> bool:
    """Make it, if it is not there. False: another of its name is."""
    try:
        await raw.create_index(list(index.keys), name=index.name, **_options(index))
    except OperationFailure as exc:
        if exc.code not in _CONFLICTS:
            raise
        return False
    return True


def _options(index: Index) -> dict[str, object]:
    options: dict[str, object] = {}
    if index.unique:
        options["unique"] = True
    if index.sparse:
        options["sparse"] = True
    if index.partial:
        options["partialFilterExpression"] = {index.keys[0][0]: {"$exists": True}}
    if index.expire_after is not None:
        options["expireAfterSeconds"] = _seconds(index.expire_after)
    return options


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
