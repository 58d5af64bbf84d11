"""`DeliveryRecords`, `Replays` and `Activities` in memory."""

from collections.abc import Collection, Sequence

from shared.domain.subscription import Activity, Delivery, Replay, ReplayState
from tests.support.fakes.deliveries import Owed


class FakeDeliveryRecords:
    """On the records of a `FakeDeliveries`."""

    def __init__(self, records: dict[str, Owed]) -> None:
        self.records = records

    async def page(
        self, subscription: str, after: str, limit: int, before: str | None = None
    ) -> list[Delivery]:
        found = [
            owed.delivery
            for owed in self.records.values()
            if owed.delivery.queue.subscription == subscription
            and owed.delivery.event_id > after
            and (before is None or owed.delivery.event_id < before)
        ]
        return sorted(found, key=lambda delivery: delivery.event_id)[:limit]

    async def forget(self, ids: Collection[str], *, pending: bool = False) -> int:
        there = [id for id in ids if id in self.records]
        gone = [id for id in there if self._waits_without_body(id) or not pending]
        for id in gone:
            del self.records[id]
        return len(gone)

    def _waits_without_body(self, id: str) -> bool:
        return self.records[id].is_pending and self.records[id].body is None


class FakeReplays:
    def __init__(self) -> None:
        self.stored: dict[str, Replay] = {}

    async def add(self, replay: Replay) -> None:
        self.stored.setdefault(replay.key, replay)

    async def get(self, subscription: str, id: str) -> Replay | None:
        return self.stored.get(f"{subscription}:{id}")

    async def of(self, subscription: str) -> list[Replay]:
        return [r for _, r in sorted(self.stored.items()) if r.subscription == subscription]

    async def running(self) -> list[Replay]:
        return [r for _, r in sorted(self.stored.items()) if r.state is ReplayState.RUNNING]

    async def advance(self, wanted: Replay, former: Replay) -> bool:
        there = self.stored.get(former.key)
        if there is None or (there.owner, there.heartbeats) != (former.owner, former.heartbeats):
            return False
        self.stored[wanted.key] = wanted
        return True

    async def remove(self, keys: Collection[str]) -> None:
        for key in keys:
            self.stored.pop(key, None)


class FakeActivities:
    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], Activity] = {}
        self.writes = 0

    async def note(self, activities: Sequence[Activity]) -> None:
        self.writes += len(activities)
        self.stored.update({(each.subscription, each.process): each for each in activities})

    async def of(self, subscription: str) -> list[Activity]:
        return [each for key, each in sorted(self.stored.items()) if key[0] == subscription]

    async def remove(self, subscription: str) -> None:
        self.stored = {key: each for key, each in self.stored.items() if key[0] != subscription}
