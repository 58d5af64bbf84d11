"""All indexes, made at start by whoever comes first, safely beside an older version."""

from collections.abc import Iterable

from pymongo.errors import OperationFailure

from shared.storage.indexes import Index
from shared.storage.mongo import Mongo, translated


async def ensure(mongo: Mongo, indexes: Iterable[Index]) -> None:
    """Make the indexes that are not there. One whose options changed (a retention, say) is made
    anew; other versions' indexes are left alone. Raises StoreUnavailable."""
    for index in indexes:
        options: dict[str, object] = {"name": index.name}
        if index.unique:
            options["unique"] = True
        if index.sparse:
            options["sparse"] = True
        if index.expire_after is not None:
            options["expireAfterSeconds"] = int(index.expire_after.total_seconds())
        raw = mongo.collection(index.collection).raw
        with translated():
            try:
                await raw.create_index(list(index.keys), **options)
            except OperationFailure as exc:
                if exc.code not in _CONFLICTS:
                    raise
                await raw.drop_index(index.name)
                await raw.create_index(list(index.keys), **options)


_CONFLICTS = {85, 86}  # IndexOptionsConflict, IndexKeySpecsConflict
