"""Collection `deliveries` (owner: webhook).

A delivery is deleted once it is delivered. A pending one has `lane`, `partition` and `lease_until`, a
dead-lettered one `given_up` (its partition), so an index has exactly the documents of each query. Its
`body` is kept, encrypted, since its event leaves the journal. `asked` is its partition while an operator
waits for an attempt, since `next_attempt_at`. The `lane` of a delivery that is set aside is that of its
device, and its event behind it: earlier versions take that for another device's, and retry it as any other.
"""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Collection as Names
from dataclasses import replace
from datetime import datetime
from typing import Any

from shared.chunks import chunked
from shared.domain.enrollment import PARTITIONS, partition_of
from shared.domain.subscription import Delivery, DeliveryQueueKey, DeliveryState
from shared.ports.deliveries import Backlog
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.indexes import Index
from shared.storage.reads import CurrentReads, find_by_id, pages_by_id
from shared.storage.records import EncryptedFields, encryption_context, record
from shared.times import EPOCH

NAME = "deliveries"
INDEXES = (
    Index(NAME, [("lane", 1), ("number", 1)], sparse=True),
    # All that `blocked` asks for: MongoDB answers it from the index alone.
    Index(NAME, [("partition", 1), ("_id", 1), ("lane", 1), ("number", 1)], sparse=True),
    Index(NAME, [("given_up", 1)], sparse=True),
    Index(NAME, [("asked", 1)], sparse=True),
)
ENCRYPTED = EncryptedFields(NAME, ("body",), where={"body": {"$exists": True}})
_NO_LONGER_PENDING = {"lane": "", "partition": "", "lease_until": "", "lease_by": "", "asked": ""}
_PLAIN = ("event_id", "number", "attempts", "next_attempt_at", "last_error", "size", "topic")
"""Fields that are stored as they are, under their own names."""
_BATCH = 64
_PAGE = 5_000
_ASIDE = "\x1f"
"""Between device and event in the `lane` of a delivery set aside; no device id holds a control character."""


class MongoDeliveries:
    """Implements `shared.ports.deliveries.Deliveries`."""

    def __init__(self, database: Database, keyring: Keyring, page: int = _PAGE) -> None:
        self._database = database
        self._documents = database.collection(NAME)
        self._current = CurrentReads(database, self._documents)
        self._page = page
        self._keyring = keyring

    async def store(self, deliveries: Sequence[Delivery]) -> list[int]:
        documents = [
            {
                "_id": delivery.id,
                "lane": _queue_key(delivery.queue),
                "partition": partition_of(delivery.queue.device),
                "subscription": delivery.queue.subscription,
                "device": delivery.queue.device,
                "lease_until": EPOCH,
                **{name: getattr(delivery, name) for name in _PLAIN},
            }
            for delivery in deliveries
        ]
        known = await self._documents.insert_many(documents)
        numbers = [delivery.number for delivery in deliveries]
        if known:
            ids = [deliveries[index].id for index in known]
            stored = await find_by_id(self._documents, ids, {"number": 1})
            # A delivery that is gone was delivered meanwhile: its number no longer matters.
            numbers = [stored.get(d.id, {}).get("number", d.number) for d in deliveries]
        return numbers

    async def blocked(self, partition: int) -> dict[DeliveryQueueKey, Backlog]:
        """Read in pages, so that no single read grows with the backlog. A delivery stored before the first
        page was read is in one of them, since an id never changes."""
        term = self._database.term
        queues: dict[str, Backlog] = {}
        async for document in self._pending(partition, {"lane": 1, "number": 1}):
            queue, number = document["lane"], document["number"]
            event_id = document["_id"].partition(":")[2]
            seen = queues.get(queue, Backlog(number, number, event_id, count=0))
            queues[queue] = Backlog(
                min(seen.lowest, number),
                max(seen.highest, number),
                min(seen.oldest, event_id),
                seen.count + 1,
            )
        await self._current.check(term)
        if queues:
            fields = {"lane": 1, "next_attempt_at": 1}
            for document in await self._documents.find({"asked": partition}, fields):
                if asked := queues.get(document["lane"]):
                    event = (document["_id"].partition(":")[2], document["next_attempt_at"])
                    queues[document["lane"]] = replace(asked, asked=asked.asked | {event})
        return {_queue_of(key): backlog for key, backlog in queues.items()}

    async def _pending(self, partition: int, projection: dict[str, int]) -> AsyncIterator[Document]:
        query = {"partition": partition}
        async for found in pages_by_id(self._documents, query, projection, self._page):
            for document in found:
                yield document

    async def waiting(self, queue: DeliveryQueueKey, limit: int) -> list[Delivery]:
        term = self._database.term
        query = {"lane": _queue_key(queue)}
        found = await self._documents.find(query, {"body": 0}, sort=[("number", 1)], limit=limit)
        if not found:  # what is found must be leased, which no deposed server does
            await self._current.check(term)
        if len(found) == limit:  # more may have the last number, and an earlier event id
            last = found[-1]["number"]
            found = [document for document in found if document["number"] != last]
            if not found:
                return await self.waiting(queue, 2 * limit)
        return sorted((decode_delivery(document) for document in found), key=_order)

    async def lease(
        self, deliveries: Sequence[Delivery], holder: str, until: datetime, now: datetime
    ) -> set[str]:
        ids = [delivery.id for delivery in deliveries]
        matched = await self._documents.update_many(
            {"_id": {"$in": ids}, "lease_until": {"$gte": EPOCH, "$lte": now}},
            {"$set": {"lease_by": holder, "lease_until": until}},
        )
        if matched == len(set(ids)):
            return set(ids)
        # Leases that end later than any can: a wrong clock made them.
        longest = until + (until - now)
        found = await self._documents.find(
            {"_id": {"$in": ids}, "lease_until": {"$gt": longest}}, {"lease_until": 1}
        )
        for document in found:
            await self._documents.update_one(
                {"_id": document["_id"], "lease_until": document["lease_until"]},
                {"$set": {"lease_by": holder, "lease_until": until}},
            )
        # An update of many returns one sum: the lease identifies the claimed ones (rule 3).
        found = await self._documents.find({"_id": {"$in": ids}, "lease_by": holder}, {"_id": 1})
        return {document["_id"] for document in found}

    async def release(self, ids: Names[str], holder: str) -> None:
        await self._documents.update_many(
            {"_id": {"$in": sorted(ids)}, "lease_by": holder},
            {"$set": {"lease_until": EPOCH}, "$unset": {"lease_by": ""}},
        )

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        await self._documents.delete_many({"_id": {"$in": [d.id for d in deliveries]}})

    async def failed(self, delivery: Delivery, holder: str, body: bytes | None = None) -> None:
        outcome: dict[str, Any] = {"attempts": delivery.attempts, "last_error": delivery.last_error}
        if body is not None:
            outcome["body"] = self._keyring.encrypt(body, _context_of(delivery.id))
        gone = {"lease_by": "", "asked": ""}
        if delivery.state is DeliveryState.PENDING:
            outcome |= {"next_attempt_at": delivery.next_attempt_at, "lease_until": EPOCH}
            if delivery.queue.aside:
                outcome["lane"] = _queue_key(delivery.queue)
        else:
            outcome |= {"given_up": partition_of(delivery.queue.device), "next_attempt_at": None}
            gone |= _NO_LONGER_PENDING
        await self._documents.update_one(
            {"_id": delivery.id, "lease_by": holder}, {"$set": outcome, "$unset": gone}
        )

    async def body(self, delivery_id: str) -> bytes | None:
        found = await self._documents.find_one({"_id": delivery_id}, {"body": 1})
        if not found or "body" not in found:
            return None
        return self._keyring.decrypt(bytes(found["body"]), _context_of(delivery_id))

    async def dead_lettered(self, partition: int) -> list[Delivery]:
        found = await self._documents.find({"given_up": partition}, {"body": 0})
        return sorted(map(decode_delivery, found), key=lambda delivery: delivery.id)

    async def retry(self, ids: Names[str] | None, now: datetime) -> int:
        if ids is not None:
            found = await find_by_id(self._documents, ids, {"body": 0})
            return await self._revive([*map(decode_delivery, found.values())], now)
        matched = 0
        for partition in range(PARTITIONS):
            matched += await self._revive(await self.dead_lettered(partition), now)
        return matched

    async def revive(self, ids: Names[str], now: datetime) -> None:
        found = await find_by_id(self._documents, ids, {"body": 0})
        dead = [each for each in found.values() if "given_up" in each]
        await self._revive([*map(decode_delivery, dead)], now)

    async def skip(self, delivery_id: str, body: bytes | None) -> bool:
        found = await self._documents.find_one({"_id": delivery_id}, {"device": 1})
        if not found:
            return False
        outcome: Document = {"given_up": partition_of(found["device"]), "next_attempt_at": None}
        if body is not None:
            outcome["body"] = self._keyring.encrypt(body, _context_of(delivery_id))
        return 1 == await self._documents.update_one(
            {"_id": delivery_id, "lease_until": {"$gte": EPOCH}},
            {"$set": outcome, "$unset": _NO_LONGER_PENDING},
        )

    async def _revive(self, deliveries: Sequence[Delivery], now: datetime) -> int:
        matched = 0
        for chunk in chunked([_tried_again(each, now) for each in deliveries], _BATCH):
            matched += (await self._documents.bulk_write(chunk))[0]
        return matched


def _tried_again(delivery: Delivery, now: datetime) -> UpdateOne:
    queue, partition = delivery.queue, partition_of(delivery.queue.device)
    if delivery.state is DeliveryState.PENDING:
        return UpdateOne(
            {"_id": delivery.id, "lease_until": {"$gte": EPOCH}},
            {"$set": {"next_attempt_at": now, "asked": partition}},
        )
    return UpdateOne(
        {"_id": delivery.id, "given_up": partition},
        {
            "$set": {
                "lane": _queue_key(queue),
                "partition": partition,
                "number": delivery.number_again,
                "attempts": 0,
                "next_attempt_at": now,
                "lease_until": EPOCH,
            },
            "$unset": {"given_up": ""},
        },
    )


def _context_of(delivery_id: str) -> str:
    return encryption_context(NAME, delivery_id, "body")


def _queue_key(queue: DeliveryQueueKey) -> str:
    aside = _ASIDE + queue.aside if queue.aside else ""
    return f"{queue.subscription}:{queue.device}{aside}"


def _queue_of(key: str) -> DeliveryQueueKey:
    # Only the first colon: events without a device have one in the name that stands for it.
    subscription, _, device = key.partition(":")
    device, _, aside = device.partition(_ASIDE)
    return DeliveryQueueKey(subscription, device, aside or None)


def _order(delivery: Delivery) -> tuple[int, str]:
    return delivery.number, delivery.event_id


def decode_delivery(document: Document) -> Delivery:
    key = document.get("lane")
    queue = _queue_of(key) if key else record(DeliveryQueueKey, document)
    is_dead = "given_up" in document
    state = DeliveryState.DEAD_LETTERED if is_dead else DeliveryState.PENDING
    return record(Delivery, document, queue=queue, state=state)
