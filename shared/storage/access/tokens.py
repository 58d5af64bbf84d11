"""Collection `tokens`: named tokens of the API, by their hash; `name` is unique. Owner: commands."""

from collections.abc import Collection
from datetime import datetime

from shared.domain.access import Scope, Token
from shared.domain.versions import is_known, known
from shared.storage.database import Database, Document
from shared.storage.indexes import Index
from shared.storage.records import fields_of, given, record

NAME = "tokens"
INDEXES = (Index(NAME, [("name", 1)], unique=True),)


class MongoTokens:
    """Implements `shared.ports.access.Tokens`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

    async def add(self, token: Token) -> bool:
        if await self._documents.insert_one(given(fields_of(token))):
            return True
        return await self._documents.find_one({"_id": token.id}) is not None

    async def all(self) -> list[Token]:
        found = await self._documents.find({}, sort=[("_id", 1)])
        return [_token(document) for document in found]

    async def revoke(self, id: str, at: datetime) -> Token | None:
        await self._documents.update_one(
            {"_id": id, "revoked_at": None}, {"$set": {"revoked_at": at}}
        )
        found = await self._documents.find_one({"_id": id})
        return _token(found) if found else None

    async def mark_used(self, ids: Collection[str], at: datetime) -> None:
        if ids:
            await self._documents.update_many(
                {"_id": {"$in": sorted(ids)}}, {"$max": {"last_used_at": at}}
            )


def _token(document: Document) -> Token:
    # This version cannot grant a scope of a later version.
    scopes = frozenset(filter(is_known, (known(Scope, scope) for scope in document["scopes"])))
    return record(Token, document, scopes=scopes)
