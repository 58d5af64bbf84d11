"""What the flows of check-in work with, handed to them by `app.build`."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.checkin.journal.writer import Writer
from services.checkin.pipeline.exchange import DeviceExchange
from shared.ports.access import AuditLog
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments
from shared.ports.events import EventPublisher, Journal
from shared.ports.pushes import PushRequests
from shared.ports.queue import CommandQueue
from shared.telemetry.metrics import Metrics


class Step(StrEnum):
    """The points between the steps, for tests that stop or kill a batch there."""

    ADMITTED = "admitted"
    JOURNALED = "journaled"
    APPLIED = "applied"
    PUBLISHED = "published"
    MARKED = "marked"


async def _go_on(step: Step, exchanges: Sequence[DeviceExchange]) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a batch works with."""

    enrollments: Enrollments
    journal: Journal
    queue: CommandQueue
    publisher: EventPublisher
    push_requests: PushRequests
    writer: Writer
    clock: Clock
    ids: Ids
    metrics: Metrics
    audit: AuditLog | None = None
    """Where bindings to a first certificate are recorded; a test may do without."""
    reached: Callable[[Step, Sequence[DeviceExchange]], Awaitable[None]] = _go_on
