"""MongoDB as a `Database`: the only code that imports its driver."""

from shared.storage.mongo.client import Driver, Mongo, MongoCollection
from shared.storage.mongo.errors import driver_errors

__all__ = ["Driver", "Mongo", "MongoCollection", "driver_errors"]
