"""The store as delivery queues and retries need it: operations of many delivery queues gather into few calls.

Promises: `store`, `delivered` and `created_at` come back only when they are done, however long the store is
away; the others raise Unavailable. Two deliveries of one delivery queue never share a call, and one that the
store refuses breaks nothing for those beside it."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from shared.concurrency.batching import BatchExecutor
from shared.domain.errors import CannotDecrypt, OfNewerVersion, Refused, TooLarge, Unavailable
from shared.domain.event import Event
from shared.domain.subscription import (
    BEYOND_TIMES,
    Delivery,
    DeliveryQueueKey,
    DeliveryState,
)
from shared.messaging.envelope import event_json
from shared.ports.clock import Clock, Ids
from shared.ports.deliveries import Deliveries
from shared.ports.events import Journal, Received
from shared.times import nanoseconds, time_of_event

log = structlog.get_logger()

Done = TypeVar("Done")

LEASE = timedelta(seconds=40)
"""Longer than an attempt may take, with its wait for a slot."""
READ_AT_ONCE = 101
"""So many deliveries of a delivery queue: one more than a request carries, for a read may leave one out."""
_DEADLINE = timedelta(seconds=15)
_FIRST_PAUSE = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=5)


class DeliveryStore:
    def __init__(self, deliveries: Deliveries, journal: Journal, clock: Clock, ids: Ids) -> None:
        self._deliveries = deliveries
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._stores = BatchExecutor[Delivery, int](self._store_all, limit=64)
        self._leases = BatchExecutor[Delivery, str | None](self._lease_all, limit=32)
        self._removals = BatchExecutor[Delivery, None](self._remove_all, limit=64)
        self._events = BatchExecutor[str, Event | None](self._load_all, limit=16)
        self._times = BatchExecutor[str, int | None](self._load_times, limit=64)

    async def store(self, delivery: Delivery) -> int:
        """Store it unless it is stored; the number that is stored."""
        return await self._until_done(lambda: self._stores.submit(delivery, key=delivery.queue))

    async def delivered(self, delivery: Delivery) -> None:
        await self._until_done(lambda: self._removals.submit(delivery))

    async def waiting(self, queue: DeliveryQueueKey) -> list[Delivery]:
        """The first pending deliveries of a delivery queue, in order."""
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            return await self._deliveries.waiting(queue, READ_AT_ONCE)

    async def lease(self, deliveries: Sequence[Delivery]) -> list[str]:
        """The holders under which the first ones are leased now, up to one that another process has or that
        is gone: those behind it are free again."""
        asked = [self._leases.submit(delivery, key=delivery.id) for delivery in deliveries]
        found = await asyncio.gather(*asked, return_exceptions=True)
        holders: list[str] = []
        unneeded = defaultdict[str, list[str]](list)
        for number, (delivery, holder) in enumerate(zip(deliveries, found, strict=True)):
            if isinstance(holder, str) and len(holders) == number:
                holders.append(holder)
            elif isinstance(holder, str):
                unneeded[holder].append(delivery.id)
        for holder, ids in unneeded.items():
            with suppress(Unavailable, TimeoutError):  # it ends by itself
                async with asyncio.timeout(_DEADLINE.total_seconds()):
                    await self._deliveries.release(ids, holder)
        if isinstance(found[0], BaseException):
            raise found[0]
        return holders

    async def failed(self, delivery: Delivery, holder: str) -> None:
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            await self._deliveries.failed(delivery, holder)

    async def dead_lettered(self, delivery: Delivery, holder: str, body: bytes | None) -> None:
        """Keep it for an operator, with its body if the store can hold that."""
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            try:
                await self._deliveries.failed(delivery, holder, body)
            except TooLarge:
                log.warning("body_not_kept", event_id=delivery.event_id)
                await self._deliveries.failed(delivery, holder)

    async def event(self, event_id: str) -> Event | None:
        return await self._events.submit(event_id)

    async def created_at(self, received: Received) -> int:
        """The time of an event (nanoseconds). Where neither message nor journal tells, that in its id; 0: it
        has none."""
        at = received.created_at
        if at is None:
            at = await self._until_done(lambda: self._times.submit(received.event_id))
        if at is None:
            moment = time_of_event(received.event_id)
            at = 0 if moment is None else nanoseconds(moment)
        return at if 0 < at < BEYOND_TIMES else 0

    async def body(self, delivery: Delivery) -> bytes | None:
        """The body that was kept with the dead letter."""
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            return await self._deliveries.body(delivery.id)

    async def drain(self) -> None:
        for batches in (self._stores, self._leases, self._removals, self._events, self._times):
            await batches.drain()

    async def _until_done(self, operation: Callable[[], Awaitable[Done]]) -> Done:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await operation()
            except (Unavailable, TimeoutError) as exc:
                log.warning(
                    "deliveries_not_written", error=str(exc), retry_in=pause.total_seconds()
                )
            await self._clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _store_all(self, deliveries: list[Delivery]) -> Sequence[int | Exception]:
        try:
            async with asyncio.timeout(_DEADLINE.total_seconds()):
                return await self._deliveries.store(deliveries)
        except Refused as exc:
            if len(deliveries) == 1:
                return [exc]
        # Which one it was is not known; those that are stored already keep their number.
        return [(await self._store_all([delivery]))[0] for delivery in deliveries]

    async def _lease_all(self, deliveries: list[Delivery]) -> Sequence[str | None]:
        holder, now = self._ids.new(), self._clock.now()
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            leased = await self._deliveries.lease(deliveries, holder, now + LEASE, now)
        return [holder if delivery.id in leased else None for delivery in deliveries]

    async def _remove_all(self, deliveries: list[Delivery]) -> Sequence[None]:
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            await self._deliveries.delivered(deliveries)
        return [None] * len(deliveries)

    async def _load_times(self, ids: list[str]) -> Sequence[int | None]:
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            found = await self._journal.stored(ids)
        return [found.get(event_id) for event_id in ids]

    async def _load_all(self, ids: list[str]) -> Sequence[Event | Exception | None]:
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            found = await read_apart(self._journal, ids)
        return [found.get(event_id) for event_id in ids]


async def read_apart(journal: Journal, ids: Sequence[str]) -> dict[str, Event | Exception]:
    """The events of these that are in the journal. One that cannot be read is its error."""
    try:
        return dict(await journal.read(ids))
    except (CannotDecrypt, OfNewerVersion) as exc:
        if len(ids) == 1:
            is_encrypted = isinstance(exc, CannotDecrypt)
            name = "secret_cannot_be_opened" if is_encrypted else "event_of_newer_version"
            log.error(name, reason=str(exc))
            return {ids[0]: exc}
    found: dict[str, Event | Exception] = {}
    for event_id in ids:
        found |= await read_apart(journal, [event_id])
    return found


async def retry_dead_letters(
    deliveries: Deliveries, page: Sequence[Delivery], now: datetime
) -> int:
    """Make the dead letters among these pending again; how many there were."""
    dead = [each.id for each in page if each.state is DeliveryState.DEAD_LETTERED]
    return await deliveries.retry(dead, now) if dead else 0


async def skip(deliveries: Deliveries, journal: Journal, delivery_id: str) -> bool:
    """Make a dead letter of a pending delivery, and keep its body for when the journal has forgotten
    it. False: it is not pending."""
    event_id = delivery_id.partition(":")[2]
    body = None
    with suppress(CannotDecrypt, OfNewerVersion):
        if event := (await journal.read([event_id])).get(event_id):
            body = event_json(event)
    try:
        return await deliveries.skip(delivery_id, body)
    except TooLarge:
        return await deliveries.skip(delivery_id, None)
