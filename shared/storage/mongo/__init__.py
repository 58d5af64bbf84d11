"""MongoDB as a `Database`: the only code that imports its driver."""

from shared.storage.mongo.client import Driver, Mongo, MongoCollection
from shared.storage.mongo.errors import translated

__all__ = ["Driver", "Mongo", "MongoCollection", "translated"]
