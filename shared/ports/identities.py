"""Changes of a device's binding (owner: checkin; commands renews it, and changes it for administrators).

Every change is conditional on the bound certificate, so that none outlives its binding.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.enrollment import Enrollment
from shared.domain.identity import Quarantine, Renewal, ReportedExpiry
from shared.domain.outbox import OutboxEvent


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An outbox event, and the device of whose record it is."""

    device: Enrollment
    outbox_event: OutboxEvent


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of a look at a certificate, on condition that it is bound and `seen` are the earlier
    attempts. `look_at`: the time of the next look; None: not until another certificate is bound."""

    device: str
    certificate: str
    seen: Renewal | None
    renewal: Renewal | None
    look_at: datetime | None
    outbox_event: OutboxEvent | None = None


class Identities(Protocol):
    async def reserve(self, certificate: str, device: str) -> None:
        """Reserve a certificate for one device; an earlier reservation stays."""

    async def quarantine(
        self, device: str, bound: str | None, seen: Quarantine, outbox_event: OutboxEvent
    ) -> bool:
        """Quarantine a device, on condition of the bound certificate. True: the quarantine begins now, and
        the outbox event is kept; else it had begun before."""

    async def release(self, device: str, bound: str) -> bool:
        """End the quarantine. False: another certificate is bound."""

    async def reset(self, device: str, bound: str) -> bool:
        """Remove the binding. False: another certificate is bound, or none."""

    async def accept_expired(self, device: str, bound: str, until: datetime) -> bool:
        """Accept an expired certificate for a while, and end the quarantine; it is renewed at once. False:
        another certificate is bound."""

    async def to_renew(self, partitions: Collection[int], at: datetime) -> list[Enrollment]:
        """Devices of these partitions whose certificates are due for a look."""

    async def attempt(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Store, each on its condition. False: overtaken."""

    async def bound(self, partition: int, after: str, limit: int) -> list[Enrollment]:
        """The devices of a partition with a bound certificate whose end is known, by id, from behind `after`
        on; without their secrets."""

    async def report_silence(
        self, device: str, last_seen: datetime, outbox_event: OutboxEvent
    ) -> bool:
        """Keep the outbox event of a silence, on condition that the device was last seen then. False: it was
        seen since, or this silence has its event."""

    async def report_expiry(
        self,
        device: str,
        expiry: ReportedExpiry,
        seen: ReportedExpiry | None,
        outbox_event: OutboxEvent,
    ) -> bool:
        """Keep the outbox event of a certificate near its end, on condition that it is bound and `seen` is
        the latest that was reported. False: overtaken."""

    async def outbox(self, partitions: Collection[int]) -> list[Outgoing]:
        """Those of one record in the order in which they were kept, each later than the one before."""

    async def published(self, outgoing: Sequence[Outgoing]) -> None:
        """Remove outbox events that are safe."""
