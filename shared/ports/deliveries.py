"""Subscriptions (every service that makes events of ours reads their topics), and the deliveries that are due
to them (owner: webhook)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.subscription import (
    Activity,
    Delivery,
    DeliveryQueueKey,
    Replay,
    Subscription,
)


class Subscriptions(Protocol):
    async def all(self) -> list[Subscription]:
        """The one of MDM_WEBHOOK_URL, where that is set, then the others by id; deleted ones too, until they
        are removed."""

    async def get(self, id: str) -> Subscription | None: ...

    async def add(self, subscription: Subscription) -> None:
        """Safe to repeat."""

    async def change(self, wanted: Subscription, revision: str) -> bool:
        """Put `wanted` in the place of the one with its id, on condition that this has `revision` still. An
        unreadable one keeps its URL and secrets."""

    async def remove(self, id: str) -> None: ...

    async def note_configured(self) -> None:
        """Let the other services know the topics that the settings ask for."""

    async def topics(self) -> frozenset[str]:
        """The topics and patterns that any subscription asks for, but for deleted ones: one cheap read."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The pending deliveries of a queue: their numbers, the oldest event, and how many there are. `asked`:
    the events that an operator wants to be tried, each with the time of that."""

    lowest: int
    highest: int
    oldest: str
    count: int = 1
    asked: frozenset[tuple[str, datetime]] = frozenset()


class Deliveries(Protocol):
    async def store(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Store each unless its event is stored for that subscription already; per delivery the stored
        number. At most one delivery of a queue in a call: no reader may see a later one before an earlier."""

    async def blocked(self, partition: int) -> dict[DeliveryQueueKey, Backlog]:
        """Delivery queues of a partition with a pending delivery."""

    async def waiting(self, queue: DeliveryQueueKey, limit: int) -> list[Delivery]:
        """The first `limit` pending deliveries of a delivery queue, by number and event id. Those of one
        number stay together: they may be fewer, or more where all have the same."""

    async def lease(
        self, deliveries: Sequence[Delivery], holder: str, until: datetime, now: datetime
    ) -> set[str]:
        """Claim pending deliveries for one attempt each, on condition that no other lease on them is valid;
        the ids of those claimed. `holder` is a value that was never used before. A lease that ends more
        than twice as far ahead as `until` is invalid: a wrong clock made it."""

    async def release(self, ids: Collection[str], holder: str) -> None:
        """End these leases of `holder`, as if they had not been."""

    async def delivered(self, deliveries: Sequence[Delivery]) -> None: ...

    async def failed(self, delivery: Delivery, holder: str, body: bytes | None = None) -> None:
        """Write attempts, next_attempt_at, last_error and state of `delivery` and end the lease, on condition
        that the lease is `holder`'s; keep `body`, if any, with it. A queue that is `aside` is written too:
        from then on the delivery waits there, and never again in its device's queue."""

    async def body(self, delivery_id: str) -> bytes | None:
        """The body that `failed` kept with it."""

    async def dead_lettered(self, partition: int) -> list[Delivery]:
        """Deliveries of a partition that were dead-lettered, by id."""

    async def retry(self, ids: Collection[str] | None, now: datetime) -> int:
        """Make dead-lettered deliveries pending again (None: all of them), with a fresh schedule, and named
        pending ones due `now`; the number of both."""

    async def revive(self, ids: Collection[str], now: datetime) -> None:
        """As `retry`, but pending ones are left alone."""

    async def skip(self, delivery_id: str, body: bytes | None) -> bool:
        """Dead-letter a pending delivery, despite any lease, and keep `body` with it. False: it is not
        pending. Raises TooLarge where the store cannot hold that body."""


class DeliveryRecords(Protocol):
    async def page(
        self, subscription: str, after: str, limit: int, before: str | None = None
    ) -> list[Delivery]:
        """The first `limit` deliveries of a subscription with after < event id < before, pending or
        dead-lettered, by event id: about by time, since ids of events are UUIDv7."""

    async def forget(self, ids: Collection[str], *, pending: bool = False) -> int:
        """Remove deliveries, `pending`: those alone that still are, without a body of their own; the number
        of those removed."""


class Replays(Protocol):
    async def add(self, replay: Replay) -> None:
        """Safe to repeat: one that is there stays as it is."""

    async def get(self, subscription: str, id: str) -> Replay | None: ...

    async def of(self, subscription: str) -> list[Replay]:
        """By id. They leave some time after their end."""

    async def running(self) -> list[Replay]:
        """Of all subscriptions, by key."""

    async def advance(self, wanted: Replay, former: Replay) -> bool:
        """Put `wanted` in the place of `former`, on condition that owner and heartbeat are still as there."""

    async def remove(self, keys: Collection[str]) -> None: ...


class Activities(Protocol):
    async def note(self, activities: Sequence[Activity]) -> None:
        """Put each in the place of an earlier one of its process and subscription."""

    async def of(self, subscription: str) -> list[Activity]:
        """Of all processes; one leaves some time after the last attempt of its process."""

    async def remove(self, subscription: str) -> None: ...
