"""How the replicas of a service share the partitions out among themselves.

Promises: members that see each other come to the same division, and a member whose heartbeat
stands still is left out soon. It is no lock: for a moment two members may both think that they
serve a partition, or nobody does. What two at once would break needs a guard of its own.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from shared.concurrency.assignment import assigned
from shared.ports.clock import Clock
from shared.ports.members import Members

STALE_AFTER = timedelta(seconds=5)
FORGOTTEN_AFTER = timedelta(minutes=2)


@dataclass(slots=True)
class _Sight:
    heartbeat: int
    moved_at: float
    is_alive: bool


class Share(Protocol):
    """Which partitions are ours, as whoever works by them sees it."""

    @property
    def partitions(self) -> frozenset[int]: ...
    async def refresh(self) -> frozenset[int]: ...
    async def leave(self) -> None: ...


class PartitionShare:
    """One member's part of the partitions, for one role (`webhook`, `push`, ...)."""

    def __init__(
        self,
        members: Members,
        clock: Clock,
        role: str,
        member: str,
        *,
        stale_after: timedelta = STALE_AFTER,
    ) -> None:
        self._members = members
        self._clock = clock
        self._role = role
        self._member = member
        self._stale_after = stale_after.total_seconds()
        self._sights: dict[str, _Sight] | None = None
        self._partitions: frozenset[int] = frozenset()

    @property
    def partitions(self) -> frozenset[int]:
        """The share as of the last refresh that succeeded; empty before the first."""
        return self._partitions

    async def refresh(self) -> frozenset[int]:
        """Beat, look at the others, and say which partitions are this member's now."""
        await self._members.raise_heartbeat(self._role, self._member)
        heartbeats = await self._members.heartbeats(self._role)
        now = self._clock.monotonic()
        self._sights = self._look(heartbeats, now)
        alive = {name for name, sight in self._sights.items() if sight.is_alive}
        self._partitions = assigned(self._member, alive)
        await self._forget(now)
        return self._partitions

    async def leave(self) -> None:
        """Tell the others at once that this member is gone."""
        self._partitions = frozenset()
        await self._members.leave(self._role, self._member)

    def _look(self, heartbeats: dict[str, int], now: float) -> dict[str, _Sight]:
        known = self._sights
        sights = {}
        for name, heartbeat in heartbeats.items():
            before = known.get(name) if known is not None else None
            if before is None:
                # Whoever was there at our first look may be long dead and counts once it moves:
                # after a crash and a restart nobody waits for the ghost of the earlier process.
                sights[name] = _Sight(heartbeat, now, is_alive=known is not None)
            elif before.heartbeat != heartbeat:
                sights[name] = _Sight(heartbeat, now, is_alive=True)
            else:
                is_alive = before.is_alive and now - before.moved_at < self._stale_after
                sights[name] = _Sight(heartbeat, before.moved_at, is_alive)
        return sights

    async def _forget(self, now: float) -> None:
        """Remove members that have been silent for long; one that wakes up registers again."""
        for name, sight in (self._sights or {}).items():
            silent = now - sight.moved_at
            if name != self._member and silent > FORGOTTEN_AFTER.total_seconds():
                await self._members.leave(self._role, name)
