"""Commands that do one thing to the store and end, beside a running server or without one.

The store is MDM_MONGODB_URL, else that of the data folder: opened here while nobody holds the folder, else
by the socket of the server that does.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from services.cli.tokens import Asked
from services.runtime.key_files import keyring_of
from services.runtime.single_process import FolderInUse, held_folder
from services.runtime.store_folder import check_folder
from services.runtime.stores import Stores
from shared.clock import SystemClock, SystemIds
from shared.settings import AllSettings
from shared.storage.database import Database, FolderDatabase
from shared.storage.mongo import Mongo
from shared.storage.remote import RemoteDatabase
from shared.storage.sqlite import open_database

FOLDER_PATIENCE = timedelta(seconds=10)
"""So long a command waits for a server that starts or ends, or for another command."""


@asynccontextmanager
async def opened_store(settings: AllSettings) -> AsyncIterator[Database]:
    """The store, closed again."""
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
    """The store of a data folder, closed again. Misconfigured where it cannot be had."""
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


async def identity(settings: AllSettings, name: str, out: Path) -> None:
    """Key and certificate of a device identity from our CA, as files."""
    from services.cli.identity import write_identity

    async with opened_store(settings) as database:
        store = Stores(database, keyring_of(settings)).authority
        for path in await write_identity(name, out, store, SystemClock()):
            sys.stdout.write(f"{path}\n")


async def deliveries(settings: AllSettings, action: str, ids: Sequence[str]) -> None:
    """Show deliveries that wait or were given up on; have them tried again; skip some."""
    from services.cli.deliveries import DeliveriesCommand

    async with opened_store(settings) as database:
        stores = Stores(database, keyring_of(settings))
        command = DeliveriesCommand(stores.deliveries, stores.journal, SystemClock(), sys.stdout)
        await command.run(action, ids)


async def token(settings: AllSettings, asked: Asked) -> None:
    """Make, list or revoke tokens of the API."""
    from services.cli.tokens import TokenCommand
    from services.commands.access.tokens import ApiTokens
    from shared.storage.access.audit import MongoAuditLog
    from shared.storage.access.tokens import INDEXES, MongoTokens

    clock, ids = SystemClock(), SystemIds()
    async with opened_store(settings) as database:
        # No server may have run here yet, and names must be unique. The index of the audit log is left to
        # a server: it has a retention, and our settings may be others than the server's.
        await database.ensure(INDEXES)
        tokens = ApiTokens(MongoTokens(database), clock, ids)
        await TokenCommand(tokens, MongoAuditLog(database), clock, ids, sys.stdout).run(asked)


async def rotate_secrets(settings: AllSettings) -> None:
    """Re-encrypt what the store holds with the first key of MDM_SECRET_KEY. Raises CannotDecrypt when
    something is left under another one."""
    from services.cli.rotate_secrets import rotate

    async with opened_store(settings) as database:
        await rotate(Stores(database, keyring_of(settings)).encrypted_values, sys.stdout)
