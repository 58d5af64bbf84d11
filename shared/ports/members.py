"""The replicas that share the partitions among them."""

from typing import Protocol


class Members(Protocol):
    async def raise_heartbeat(self, role: str, member: str) -> None: ...

    async def heartbeats(self, role: str) -> dict[str, int]:
        """member -> heartbeat. The reader judges staleness by its own monotonic clock."""

    async def leave(self, role: str, member: str) -> None: ...
