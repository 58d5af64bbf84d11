"""`Deliveries` in memory, and what the webhook service needs around it.

Several `FakeDeliveries` may share their records: then each is one replica's way to the same store,
with a hook of its own for barriers and faults.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from shared.domain.enrollment import partition_of
from shared.domain.errors import BadRequest, TooLarge
from shared.domain.subscription import Delivery, DeliveryQueueKey, DeliveryState
from shared.ports.deliveries import Backlog
from shared.times import EPOCH
from tests.support.fakes.queue import Hook, undisturbed


@dataclass(slots=True)
class Owed:
    """One stored delivery and the lease on it."""

    delivery: Delivery
    lease_by: str | None = None
    lease_until: datetime = EPOCH
    body: bytes | None = None
    asked_at: datetime | None = None

    @property
    def is_pending(self) -> bool:
        return self.delivery.state is DeliveryState.PENDING

    def written(self, delivery: Delivery) -> None:
        """The delivery has not changed, and has no lease."""
        self.delivery = delivery
        self.lease_by, self.lease_until, self.asked_at = None, EPOCH, None


class FakeDeliveries:
    """`Deliveries` on a dictionary."""

    def __init__(
        self,
        records: dict[str, Owed] | None = None,
        before: Hook = undisturbed,
        after_read: Hook = undisturbed,
    ) -> None:
        self.records = {} if records is None else records
        self.before = before
        self.after_read = after_read
        self.refused: set[str] = set()
        """Ids of deliveries that can never be stored."""
        self.largest_body = 2**24
        self.read_counts: list[int] = []
        """How many deliveries each read of a delivery queue has fetched."""

    def in_queue(self, device: str) -> list[str]:
        """Event ids pending for a device, in order."""
        found = [o.delivery for o in self.records.values() if o.is_pending]
        found = [delivery for delivery in found if delivery.queue.device == device]
        return [delivery.event_id for delivery in sorted(found, key=_order)]

    @property
    def all_dead_lettered(self) -> list[Delivery]:
        """Of all partitions, by id."""
        found = [owed.delivery for owed in self.records.values() if not owed.is_pending]
        return sorted(found, key=lambda delivery: delivery.id)

    async def store(self, deliveries: Sequence[Delivery]) -> list[int]:
        await self.before("store")
        if self.refused & {delivery.id for delivery in deliveries}:
            raise BadRequest("the store cannot hold this document")
        queues = [delivery.queue for delivery in deliveries]
        assert len(set(queues)) == len(queues), "two deliveries of a lane in one call"
        return [self.records.setdefault(d.id, Owed(d)).delivery.number for d in deliveries]

    async def blocked(self, partition: int) -> dict[DeliveryQueueKey, Backlog]:
        await self.before("blocked")
        queues: dict[DeliveryQueueKey, Backlog] = {}
        for owed in self.records.values():
            delivery = owed.delivery
            if not owed.is_pending or partition_of(delivery.queue.device) != partition:
                continue
            number, event = delivery.number, delivery.event_id
            seen = queues.get(delivery.queue, Backlog(number, number, event, count=0))
            queues[delivery.queue] = Backlog(
                min(seen.lowest, number),
                max(seen.highest, number),
                min(seen.oldest, event),
                seen.count + 1,
                seen.asked | ({(event, owed.asked_at)} if owed.asked_at else set()),
            )
        return queues

    async def waiting(self, queue: DeliveryQueueKey, limit: int) -> list[Delivery]:
        await self.before("waiting")
        pending = [owed.delivery for owed in self.records.values() if owed.is_pending]
        found = sorted((each for each in pending if each.queue == queue), key=_order)
        if len(found) >= limit:
            cut = found[limit - 1].number
            found = [d for d in found if d.number < cut] or [d for d in found if d.number == cut]
        self.read_counts.append(len(found))
        await self.after_read("waiting")
        return found

    async def lease(
        self, deliveries: Sequence[Delivery], holder: str, until: datetime, now: datetime
    ) -> set[str]:
        await self.before("lease")
        leased, longest = set(), until + (until - now)
        for delivery in deliveries:
            owed = self.records.get(delivery.id)
            if owed is None or not owed.is_pending:
                continue
            if owed.lease_until <= now or owed.lease_until > longest:
                owed.lease_by, owed.lease_until = holder, until
                leased.add(delivery.id)
        return leased

    async def release(self, ids: Collection[str], holder: str) -> None:
        await self.before("release")
        for owed in filter(None, map(self.records.get, ids)):
            if owed.lease_by == holder:
                owed.lease_by, owed.lease_until = None, EPOCH

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        await self.before("delivered")
        for delivery in deliveries:
            self.records.pop(delivery.id, None)

    async def failed(self, delivery: Delivery, holder: str, body: bytes | None = None) -> None:
        await self.before("failed")
        if body is not None and len(body) > self.largest_body:
            raise TooLarge("the document is too large for the store")
        owed = self.records.get(delivery.id)
        if owed is None or owed.lease_by != holder:
            return
        updated = replace(
            owed.delivery,
            queue=_queue_after(owed.delivery, delivery),
            attempts=delivery.attempts,
            next_attempt_at=delivery.next_attempt_at,
            last_error=delivery.last_error,
            state=delivery.state,
        )
        owed.written(updated)
        if body is not None:
            owed.body = body

    async def body(self, delivery_id: str) -> bytes | None:
        await self.before("body")
        owed = self.records.get(delivery_id)
        return owed.body if owed else None

    async def dead_lettered(self, partition: int) -> list[Delivery]:
        await self.before("dead_lettered")
        return [
            each for each in self.all_dead_lettered if partition_of(each.queue.device) == partition
        ]

    async def retry(self, ids: Collection[str] | None, now: datetime) -> int:
        await self.before("retry")
        chosen = [
            owed
            for delivery_id, owed in self.records.items()
            if (not owed.is_pending if ids is None else delivery_id in ids)
        ]
        for owed in chosen:
            again = replace(owed.delivery, next_attempt_at=now)
            if owed.is_pending:
                owed.delivery, owed.asked_at = again, now
            else:
                number = again.number_again
                revived = replace(again, number=number, state=DeliveryState.PENDING, attempts=0)
                owed.written(revived)
        return len(chosen)

    async def revive(self, ids: Collection[str], now: datetime) -> None:
        dead = {id for id, owed in self.records.items() if not owed.is_pending}
        await self.retry(dead.intersection(ids), now)

    async def skip(self, delivery_id: str, body: bytes | None) -> bool:
        await self.before("skip")
        owed = self.records.get(delivery_id)
        if owed is None or not owed.is_pending:
            return False
        if body is not None and len(body) > self.largest_body:
            raise TooLarge("the document is too large for the store")
        owed.written(
            replace(
                owed.delivery,
                queue=DeliveryQueueKey(
                    owed.delivery.queue.subscription, owed.delivery.queue.device
                ),
                state=DeliveryState.DEAD_LETTERED,
                next_attempt_at=None,
            )
        )
        owed.body = body if body is not None else owed.body
        return True


def _queue_after(stored: Delivery, written: Delivery) -> DeliveryQueueKey:
    """What is set aside stays so while it is pending."""
    if written.state is not DeliveryState.PENDING:
        return DeliveryQueueKey(stored.queue.subscription, stored.queue.device)
    return written.queue if written.queue.aside else stored.queue


def _order(delivery: Delivery) -> tuple[int, str]:
    return delivery.number, delivery.event_id
