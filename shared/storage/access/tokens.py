"""Collection `tokens`: named tokens of the API, by their hash. Owner: commands.

_id, name (unique), digest, scopes, created_at, created_by; expires_at, revoked_at, last_used_at
where there is one.
"""

from collections.abc import Collection
from datetime import datetime

from shared.domain.access import Scope, Token
from shared.domain.versions import is_known, known
from shared.storage.database import Database, Document
from shared.storage.indexes import Index

NAME = "tokens"
INDEXES = (Index(NAME, [("name", 1)], unique=True),)
_TIMES = ("expires_at", "revoked_at", "last_used_at")


class MongoTokens:
    """Implements `shared.ports.access.Tokens`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

    async def add(self, token: Token) -> bool:
        if await self._documents.insert_one(_document(token)):
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


def _document(token: Token) -> Document:
    document: Document = {
        "_id": token.id,
        "name": token.name,
        "digest": token.digest,
        "scopes": sorted(token.scopes),
        "created_at": token.created_at,
        "created_by": token.created_by,
    }
    times = {name: getattr(token, name) for name in _TIMES}
    return document | {name: time for name, time in times.items() if time is not None}


def _token(document: Document) -> Token:
    # A later version's scope is none that this version could grant.
    scopes = frozenset(filter(is_known, (known(Scope, scope) for scope in document["scopes"])))
    return Token(
        id=document["_id"],
        name=document["name"],
        digest=document["digest"],
        scopes=scopes,
        created_at=document["created_at"],
        created_by=document["created_by"],
        **{name: document.get(name) for name in _TIMES},
    )
