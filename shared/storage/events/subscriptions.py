"""Collection `webhooks` (owner: webhook): the subscriptions that were made by API, and one document `config`
with the topics that the settings ask for. The URL and all secrets are encrypted.

The subscription `config`, of MDM_WEBHOOK_URL, is not stored: a changed setting counts from the next start
on. Former versions read another collection, `subscriptions`, which nothing ever filled."""

from collections.abc import Collection as Names
from typing import Any

import orjson
import structlog

from shared.domain.errors import CannotDecrypt
from shared.domain.subscription import (
    CONFIG_SUBSCRIPTION,
    RequestSecrets,
    SigningSecret,
    Subscription,
    SubscriptionState,
)
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document
from shared.storage.reads import find_by_id
from shared.storage.records import EncryptedFields, encryption_context, fields_of, record
from shared.times import parse_rfc3339, rfc3339_or_null

log = structlog.get_logger()

NAME = "webhooks"
URL, SECRETS = "url", "secrets"
ENCRYPTED = EncryptedFields(NAME, (URL, SECRETS), where={"_id": {"$ne": CONFIG_SUBSCRIPTION}})
_TOPICS = {"topics": 1, "extra_topics": 1, "state": 1}


class MongoSubscriptions:
    """Implements `shared.ports.deliveries.Subscriptions`."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        configured_url: str | None = None,
        extra_topics: Names[str] = (),
    ) -> None:
        self._documents = database.collection(NAME)
        self._keyring = keyring
        config = Subscription(
            CONFIG_SUBSCRIPTION,
            configured_url or "",
            frozenset(extra_topics),
            name="MDM_WEBHOOK_URL",
        )
        self._configured = [config] if configured_url else []
        self._read: dict[str, Subscription] = {}
        """As of the latest read: one that did not change since is not decrypted again."""

    async def all(self) -> list[Subscription]:
        revisions = await self._documents.find(
            {"_id": {"$ne": CONFIG_SUBSCRIPTION}}, {"revision": 1}, sort=[("_id", 1)]
        )
        same = {
            each["_id"]: self._read[each["_id"]]
            for each in revisions
            if each["_id"] in self._read and self._read[each["_id"]].revision == each["revision"]
        }
        changed = [each["_id"] for each in revisions if each["_id"] not in same]
        found = await find_by_id(self._documents, changed)
        self._read = same | {id: self._decode_or_hold(document) for id, document in found.items()}
        return [*self._configured, *(self._read[id] for id in sorted(self._read))]

    async def get(self, id: str) -> Subscription | None:
        if id == CONFIG_SUBSCRIPTION:
            return next(iter(self._configured), None)
        found = await self._documents.find_one({"_id": id})
        return self._decode_or_hold(found) if found else None

    async def add(self, subscription: Subscription) -> None:
        await self._documents.insert_one(self._encode(subscription))

    async def change(self, wanted: Subscription, revision: str) -> bool:
        document = self._encode(wanted)
        query = {"_id": document.pop("_id"), "revision": revision}
        return 1 == await self._documents.update_one(query, {"$set": document})

    async def remove(self, id: str) -> None:
        await self._documents.delete_one({"_id": id})

    async def note_configured(self) -> None:
        topics = sorted(topic for each in self._configured for topic in each.all_topics)
        await self._documents.update_one(
            {"_id": CONFIG_SUBSCRIPTION}, {"$set": {"topics": topics}}, upsert=True
        )

    async def topics(self) -> frozenset[str]:
        found = await self._documents.find({}, _TOPICS)
        return frozenset(
            topic
            for each in found
            if each.get("state") != SubscriptionState.DELETED.value
            for topic in (*each["topics"], *each.get("extra_topics", ()))
        )

    def _encode(self, subscription: Subscription) -> Document:
        secrets = subscription.secrets
        private = {
            "headers": dict(secrets.headers),
            "authorization": secrets.authorization,
            "hmac_key": secrets.hmac_key,
            "signing": [[s.value, rfc3339_or_null(s.expires_at)] for s in secrets.signing],
        }
        fields = fields_of(subscription)
        if fields.pop("unreadable"):
            return {name: value for name, value in fields.items() if name not in (URL, SECRETS)}
        return fields | {
            URL: self._encrypted(subscription.id, URL, subscription.url.encode()),
            SECRETS: self._encrypted(subscription.id, SECRETS, orjson.dumps(private)),
        }

    def _decode(self, document: Document) -> Subscription:
        private = orjson.loads(self._decrypted(document, SECRETS))
        signing = [SigningSecret(value, parse_rfc3339(end)) for value, end in private["signing"]]
        secrets = RequestSecrets(
            private["headers"], private["authorization"], tuple(signing), private["hmac_key"]
        )
        url = self._decrypted(document, URL).decode()
        return record(Subscription, document, url=url, secrets=secrets)

    def _decode_or_hold(self, document: Document) -> Subscription:
        """One whose key is missing keeps its events until the key is back, and stops no other one."""
        try:
            return self._decode(document)
        except CannotDecrypt as exc:
            log.error("webhook_held", subscription=document["_id"], reason=str(exc))
            return record(
                Subscription, document, url="", secrets=RequestSecrets(), unreadable=str(exc)
            )

    def _encrypted(self, id: str, name: str, value: bytes) -> bytes:
        return self._keyring.encrypt(value, encryption_context(NAME, id, name))

    def _decrypted(self, document: dict[str, Any], name: str) -> bytes:
        context = encryption_context(NAME, document["_id"], name)
        return self._keyring.decrypt(bytes(document[name]), context)
