"""Collection `commands`: its documents, and what its janitor does (docs/rules.md, rule 13).

Owner: commands.
"""

from collections.abc import Collection as Names
from collections.abc import Mapping
from datetime import datetime

from shared.domain.command import Command
from shared.storage.mongo import Document, Mongo
from shared.storage.place_documents import COMMANDS, NAME


class MongoStoredCommands:
    """Implements `shared.ports.queue.StoredCommands`."""

    def __init__(self, mongo: Mongo) -> None:
        self._commands = mongo.collection(COMMANDS)
        self._places = mongo.collection(NAME)

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        """A closed range of `_id`, so that its cost is that of the commands in it."""
        found = await self._commands.find(
            {"_id": {"$gte": prefix, "$lte": prefix + "g"}, "touched": {"$lt": before}},
            {"touched": 1},
        )
        return {document["_id"]: document["touched"] for document in found}

    async def in_use(self, hashes: Names[str]) -> set[str]:
        used: set[str] = set()
        for command_hash in hashes:  # one each: a command of a large fleet has many places
            if await self._places.find({"command": command_hash}, {"_id": 1}, limit=1):
                used.add(command_hash)
        return used

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        return sum(
            [
                await self._commands.delete_one({"_id": command_hash, "touched": touched})
                for command_hash, touched in commands.items()
            ]
        )


def command_document(command: Command, at: datetime) -> Document:
    """The document of a command that is stored now."""
    return {
        "_id": command.hash,
        "uuid": command.uuid,
        "request_type": command.request_type,
        "plist": command.plist,
        "created": at,
        "touched": at,
    }


def command_of(document: Document) -> Command:
    return Command(
        hash=document["_id"],
        uuid=document["uuid"],
        request_type=document["request_type"],
        plist=bytes(document["plist"]),
    )
