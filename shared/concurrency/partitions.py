"""The division of the partitions among the replicas of a service.

Promises: members that see each other compute the same division: every partition has exactly one member, no
member has more than its even share rounded up, and a change of members moves few partitions of those that
stay. A member whose heartbeat stops is excluded soon. This is no lock: for a moment two members may both
serve a partition, or none does. Work that two at once would break needs a separate guard.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from shared.domain.enrollment import PARTITIONS
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
    """The partitions of this process."""

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
        self.partitions: frozenset[int] = frozenset()
        """The share as of the last successful refresh; empty before the first."""

    async def refresh(self) -> frozenset[int]:
        """Raise the heartbeat, read those of the others, and return this member's partitions."""
        await self._members.raise_heartbeat(self._role, self._member)
        heartbeats = await self._members.heartbeats(self._role)
        now = self._clock.monotonic()
        self._sights = self._look(heartbeats, now)
        alive = {name for name, sight in self._sights.items() if sight.is_alive}
        self.partitions = assigned(self._member, alive)
        for name, sight in self._sights.items():
            # A member that was silent for long and wakes up registers again.
            if name != self._member and now - sight.moved_at > FORGOTTEN_AFTER.total_seconds():
                await self._members.leave(self._role, name)
        return self.partitions

    async def leave(self) -> None:
        """Remove this member, so that the others take its partitions at once."""
        self.partitions = frozenset()
        await self._members.leave(self._role, self._member)

    def _look(self, heartbeats: dict[str, int], now: float) -> dict[str, _Sight]:
        known = self._sights
        sights = {}
        for name, heartbeat in heartbeats.items():
            before = known.get(name) if known is not None else None
            if before is None:
                # A member seen at our first look may be long dead and counts once it moves: after a
                # crash and a restart no partition waits for the earlier process.
                sights[name] = _Sight(heartbeat, now, is_alive=known is not None)
            elif before.heartbeat != heartbeat:
                sights[name] = _Sight(heartbeat, now, is_alive=True)
            else:
                is_alive = before.is_alive and now - before.moved_at < self._stale_after
                sights[name] = _Sight(heartbeat, before.moved_at, is_alive)
        return sights


def assigned(member: str, members: Collection[str]) -> frozenset[int]:
    """The partitions of `member` among `members` (whether or not it is listed itself)."""
    everyone = sorted({member, *members})
    room = dict.fromkeys(everyone, -(-PARTITIONS // len(everyone)))
    mine = set()
    for partition in range(PARTITIONS):
        # Rendezvous hashing with a bound: the best member that is not full yet.
        weights = {
            name: hashlib.sha256(f"{partition}:{name}".encode()).digest()
            for name in everyone
            if room[name]
        }
        chosen = max(weights, key=weights.__getitem__)
        room[chosen] -= 1
        if chosen == member:
            mine.add(partition)
    return frozenset(mine)
