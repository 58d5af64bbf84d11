"""Open the settings and the store for a command, beside a running server or without one.

The store is MDM_MONGODB_URL, else that of the data folder: opened here while no other process holds the
folder, else by the socket of the server that holds it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from services.runtime.key_files import keyring_of
from services.runtime.single_process import FolderInUse, held_folder
from services.runtime.store_folder import check_folder
from services.runtime.stores import Stores
from shared.concurrency.clock import SystemClock
from shared.settings import AllSettings, load
from shared.storage.database import Database, FolderDatabase
from shared.storage.mongo import Mongo
from shared.storage.remote import RemoteDatabase
from shared.storage.sqlite import open_database
from shared.telemetry import logs

FOLDER_PATIENCE = timedelta(seconds=10)
"""A command waits so long for a server that starts or ends, or for another command."""


def command_settings(environ: Mapping[str, str]) -> AllSettings:
    """Read the settings and set logging up."""
    settings = load(AllSettings, environ)
    logs.configure(settings.log_format)
    return settings


@asynccontextmanager
async def opened_stores(settings: AllSettings) -> AsyncIterator[Stores]:
    """The stores, closed again."""
    async with opened_database(settings) as database:
        yield Stores(database, keyring_of(settings))


@asynccontextmanager
async def opened_database(settings: AllSettings) -> AsyncIterator[Database]:
    """The store's database, closed again."""
    if settings.mongodb_url is None:
        async with opened_folder(settings.data_dir) as database:
            yield database
        return
    mongo = Mongo(settings.mongodb_url.get_secret_value(), driver=settings.mongo_driver)
    try:
        yield mongo
    finally:
        await mongo.close()


@asynccontextmanager
async def opened_folder(folder: Path) -> AsyncIterator[FolderDatabase]:
    """The store of a data folder, closed again. Misconfigured when it cannot be opened."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(held_folder(folder, clock, FOLDER_PATIENCE))
        except FolderInUse as exc:
            if not exc.is_served:
                raise
            database: FolderDatabase = RemoteDatabase(folder)
        else:
            check_folder(folder)
            database = open_database(folder, clock)
            stack.push_async_callback(database.close)
        yield database
