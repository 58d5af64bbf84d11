"""Collection `authority`: the installation's own CA, one document (owner: checkin).

Promise: `create` stores it at most once, whoever and how many try at the same time, and gives
everybody the same one, durably.
"""

from shared.domain.errors import StoreUnavailable
from shared.ports.authority import StoredAuthority
from shared.storage.mongo import Document, Mongo

COLLECTION = "authority"
_ID = "device-ca"


class MongoAuthorityStore:
    """AuthorityStore over MongoDB."""

    def __init__(self, mongo: Mongo) -> None:
        self._authority = mongo.collection(COLLECTION)

    async def load(self) -> StoredAuthority | None:
        # The update changes nothing after the first time, but its write concern waits for what it
        # meets: a CA that another process has just inserted is used only once it is durable.
        if not await self._authority.update_one({"_id": _ID}, {"$set": {"in_use": True}}):
            return None
        found = await self._authority.find_one({"_id": _ID})
        return None if found is None else _stored(found)

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        await self._authority.insert_one(
            {
                "_id": _ID,
                "certificate_pem": candidate.certificate_pem,
                "key_pem": candidate.key_pem,
            }
        )
        stored = await self.load()
        if stored is None:  # a primary that went away between the two
            raise StoreUnavailable("MongoDB: the CA that was stored cannot be read")
        return stored


def _stored(document: Document) -> StoredAuthority:
    return StoredAuthority(
        certificate_pem=bytes(document["certificate_pem"]), key_pem=bytes(document["key_pem"])
    )
