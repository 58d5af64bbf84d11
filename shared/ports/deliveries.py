"""Who hears of events, and what is still owed to them (owner: webhook)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.subscription import Delivery, DeliveryQueueKey, Subscription


class Subscriptions(Protocol):
    async def all(self) -> list[Subscription]: ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a delivery queue: the lowest and the highest number, and the id of the oldest event;
    whether an operator asked for an attempt."""

    lowest: int
    highest: int
    oldest: str
    is_asked: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """The first delivery of a delivery queue, and how many wait behind it."""

    head: Delivery
    behind: int = 0


class Deliveries(Protocol):
    async def store(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Store each unless its event is stored for that subscription already; per delivery the
        number that is stored. At most one delivery of a delivery queue in a call: nobody may see a later one
        before an earlier one."""

    async def blocked(self, partition: int) -> dict[DeliveryQueueKey, Backlog]:
        """Delivery queues of a partition with a pending delivery."""

    async def heads(self, partition: int) -> list[Blocked]:
        """The same delivery queues, each with its first delivery, by device."""

    async def waiting(self, queue: DeliveryQueueKey, first: int, last: int) -> list[Delivery]:
        """The pending deliveries of a delivery queue with first <= number <= last, by number."""

    async def lease(
        self, deliveries: Sequence[Delivery], holder: str, until: datetime, now: datetime
    ) -> set[str]:
        """Claim pending deliveries for one attempt each, on condition that no other lease on them is
        good; the ids of those claimed. `holder` is a value that was never used before. A lease that
        ends more than twice as far ahead as `until` is not good: a wrong clock made it."""

    async def delivered(self, deliveries: Sequence[Delivery]) -> None: ...

    async def failed(self, delivery: Delivery, holder: str, body: bytes | None = None) -> None:
        """Write attempts, next_attempt_at, last_error and state as they are in `delivery` and end the
        lease, on condition that the lease is `holder`'s; keep `body`, if there is one, with it. A delivery
        queue that is `aside` is written too: from then on the delivery waits there, and never again in its
        device's delivery queue."""

    async def body(self, delivery_id: str) -> bytes | None:
        """What `failed` kept with it."""

    async def dead_lettered(self, partition: int) -> list[Delivery]:
        """Deliveries of a partition that were dead-lettered, by id."""

    async def retry(self, ids: Collection[str] | None, now: datetime) -> int:
        """Make deliveries that were dead-lettered pending again (None: all of them), with a fresh
        schedule, and those named that are pending due `now`; how many there were."""

    async def skip(self, delivery_id: str, body: bytes | None) -> bool:
        """Give a pending delivery up, whoever has a lease on it, and keep `body` with it. False: it is
        not pending. Raises TooLarge where the store cannot hold that body."""
