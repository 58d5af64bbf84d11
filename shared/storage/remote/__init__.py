"""The store of a data folder for commands beside the server that holds it: over a Unix socket."""

from shared.storage.remote.client import RemoteDatabase, is_served
from shared.storage.remote.server import StoreServer

__all__ = ["RemoteDatabase", "StoreServer", "is_served"]
