"""Collection `commands`: its documents, and the work of its janitor (docs/rules.md, rule 13).

Owner: commands. The property list is encrypted: it may hold an unlock token, passwords or a challenge.
"""

from collections.abc import Collection as Names
from collections.abc import Mapping
from datetime import datetime

import structlog

from shared.domain.command import Command
from shared.domain.errors import CannotDecrypt
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document
from shared.storage.queue.documents import COMMANDS, NAME
from shared.storage.queue.jobs import NAME as JOBS
from shared.storage.records import EncryptedFields, encryption_context, record

log = structlog.get_logger()

PLIST = "plist"
ENCRYPTED = EncryptedFields(COMMANDS, (PLIST,))


class MongoStoredCommands:
    """Implements `shared.ports.queue.StoredCommands`."""

    def __init__(self, database: Database) -> None:
        self._commands = database.collection(COMMANDS)
        self._entries = database.collection(NAME)
        self._jobs = database.collection(JOBS)

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        # A closed range of `_id`: it costs as much as the commands in it.
        found = await self._commands.find(
            {"_id": {"$gte": prefix, "$lte": prefix + "g"}, "touched": {"$lt": before}},
            {"touched": 1},
        )
        return {document["_id"]: document["touched"] for document in found}

    async def in_use(self, hashes: Names[str]) -> set[str]:
        # Jobs first: one that ends meanwhile has queued its entries.
        running = await self._jobs.find({"running": True}, {"command": 1})
        used = {job["command"] for job in running}.intersection(hashes)
        # one each: a command of a large fleet has many entries
        for command_hash in set(hashes) - used:
            if await self._entries.find({"command": command_hash}, {"_id": 1}, limit=1):
                used.add(command_hash)
        return used

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        return sum(
            [
                await self._commands.delete_one({"_id": command_hash, "touched": touched})
                for command_hash, touched in commands.items()
            ]
        )


def command_document(command: Command, at: datetime, keyring: Keyring) -> Document:
    return {
        "_id": command.hash,
        "uuid": command.uuid,
        "request_type": command.request_type,
        "plist": keyring.encrypt(command.plist, encryption_context(COMMANDS, command.hash, PLIST)),
        "created": at,
        "touched": at,
    }


def command_of(document: Document, keyring: Keyring) -> Command:
    """A command that cannot be decrypted must not stop the others that are read with it."""
    plist, unreadable = b"", None
    try:
        plist = keyring.decrypt(
            bytes(document[PLIST]), encryption_context(COMMANDS, document["_id"], PLIST)
        )
    except CannotDecrypt as exc:
        log.error("secret_cannot_be_opened", reason=str(exc))
        unreadable = str(exc)
    return record(Command, document, plist=plist, unreadable=unreadable)
