"""What becomes of a device's binding after it was made (owner: checkin; commands renews it, and changes it
for administrators).

Every change is conditional on the certificate that is bound, so that none outlives its binding.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.enrollment import Enrollment
from shared.domain.identity import Quarantine, Renewal
from shared.domain.outbox import OutboxEvent


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An outbox event, and the device of whose record it is."""

    device: Enrollment
    outbox_event: OutboxEvent


@dataclass(frozen=True, slots=True)
class Attempt:
    """What follows from a look at a certificate that must be renewed, on condition that `certificate`
    is bound and `seen` is what was known of earlier attempts.

    `look_at`: when to look again; None: never, until another is bound.
    """

    device: str
    certificate: str
    seen: Renewal | None
    renewal: Renewal | None
    look_at: datetime | None
    outbox_event: OutboxEvent | None = None


class Identities(Protocol):
    async def reserve(self, certificate: str, device: str) -> None:
        """No other device can be bound to it; one that is reserved stays as it is."""

    async def quarantine(
        self, device: str, bound: str | None, seen: Quarantine, outbox_event: OutboxEvent
    ) -> bool:
        """Note that a device asks in vain, on condition of what is bound to it. True: it begins now,
        and the outbox event is kept; else it goes on since it began."""

    async def release(self, device: str, bound: str) -> bool:
        """End the quarantine: what is bound is right. False: something else is bound."""

    async def reset(self, device: str, bound: str) -> bool:
        """Take the binding away. False: something else is bound, or nothing."""

    async def accept_expired(self, device: str, bound: str, until: datetime) -> bool:
        """Be patient with a certificate whose time is over, and end the quarantine; it is renewed at
        once. False: something else is bound."""

    async def to_renew(self, partitions: Collection[int], at: datetime) -> list[Enrollment]:
        """Devices of these partitions whose certificates are to be looked at by then."""

    async def attempt(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Store, each on its condition. False: overtaken."""

    async def outbox(self, partitions: Collection[int]) -> list[Outgoing]:
        """What subscribers of these partitions are still to be told."""

    async def published(self, outgoing: Sequence[Outgoing]) -> None:
        """Their events are safe."""
