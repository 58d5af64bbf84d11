"""Collection `authority`: the installation's own CA, one document (owner: checkin).

Promise: `create` stores it at most once, whoever and how many try at the same time, and gives
everybody the same one, durably. The key is sealed.
"""

from shared.domain.errors import StoreUnavailable
from shared.ports.authority import StoredAuthority
from shared.ports.seal import Seal
from shared.storage.database import Database
from shared.storage.sealed_fields import SealedFields, place

COLLECTION = "authority"
_ID = "device-ca"
_KEY = "key_pem"
SEALED = SealedFields(COLLECTION, (_KEY,))
_PLACE = place(COLLECTION, _ID, _KEY)


class MongoAuthorityStore:
    """AuthorityStore over MongoDB."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._authority = database.collection(COLLECTION)
        self._seal = seal

    async def load(self) -> StoredAuthority | None:
        # The update changes nothing after the first time, but its write concern waits for what it
        # meets: a CA that another process has just inserted is used only once it is durable.
        if not await self._authority.update_one({"_id": _ID}, {"$set": {"in_use": True}}):
            return None
        found = await self._authority.find_one({"_id": _ID})
        if found is None:
            return None
        return StoredAuthority(
            certificate_pem=bytes(found["certificate_pem"]),
            key_pem=self._seal.open(bytes(found[_KEY]), _PLACE),
        )

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        await self._authority.insert_one(
            {
                "_id": _ID,
                "certificate_pem": candidate.certificate_pem,
                _KEY: self._seal.seal(candidate.key_pem, _PLACE),
            }
        )
        stored = await self.load()
        if stored is None:  # a primary that went away between the two
            raise StoreUnavailable("MongoDB: the CA that was stored cannot be read")
        return stored
