"""Collection `authority`: the installation's own CA, one document (owner: checkin).

Promise: `create` stores it at most once, however many try at the same time, and returns the same CA to
all of them, durably. The key is encrypted.
"""

from shared.domain.errors import StoreUnavailable
from shared.ports.certificates import StoredAuthority
from shared.ports.keyring import Keyring
from shared.storage.database import Database
from shared.storage.records import EncryptedFields, encryption_context, fields_of, record

COLLECTION = "authority"
_ID = "device-ca"
_KEY = "key_pem"
ENCRYPTED = EncryptedFields(COLLECTION, (_KEY,))
_CONTEXT = encryption_context(COLLECTION, _ID, _KEY)


class MongoAuthorityStore:
    """Implements `shared.ports.certificates.AuthorityStore`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._authority = database.collection(COLLECTION)
        self._keyring = keyring

    async def load(self) -> StoredAuthority | None:
        # The update changes nothing after the first time, but its write concern waits for the document
        # that it matches: a CA that another process has just inserted is used only once it is durable.
        if not await self._authority.update_one({"_id": _ID}, {"$set": {"in_use": True}}):
            return None
        found = await self._authority.find_one({"_id": _ID})
        if found is None:
            return None
        return record(
            StoredAuthority, found, key_pem=self._keyring.decrypt(bytes(found[_KEY]), _CONTEXT)
        )

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        key = self._keyring.encrypt(candidate.key_pem, _CONTEXT)
        await self._authority.insert_one({"_id": _ID, **fields_of(candidate), _KEY: key})
        stored = await self.load()
        if stored is None:  # a primary that went away between the two
            raise StoreUnavailable("MongoDB: the CA that was stored cannot be read")
        return stored
