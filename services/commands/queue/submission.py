"""One request to queue a command, and what came of it."""

from dataclasses import dataclass, field
from datetime import datetime

from services.commands.queue.targets import Target
from shared.apple.request.plist import PreparedCommand
from shared.domain.command import NORMAL_PRIORITY, QueueEntry
from shared.domain.errors import Conflict, MdmError, NotFound


@dataclass(frozen=True, slots=True)
class Queued:
    """A command that is queued. `is_new`: it is queued now; else it was, and this is a retry.

    `warnings` say why the device may refuse it, each in one sentence."""

    is_new: bool
    entry: QueueEntry
    warnings: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Submission:
    """One request on its way. `outcome`: True queued (anew), False it stood there already.

    `since`: what was accepted from then on under this name was queued by this very submission."""

    prepared: PreparedCommand
    target: str
    order: str
    since: datetime | None = None
    entry: QueueEntry = field(init=False)
    warnings: tuple[str, ...] = ()
    outcome: bool | MdmError | None = None

    def entry_at(self, target: Target, at: datetime) -> QueueEntry:
        """The entry that it asks for, accepted at this time."""
        command, terms = self.prepared.command, self.prepared.terms
        return QueueEntry(
            enrollment=target.key.id,
            device=target.key.device,
            command_uuid=command.uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation=target.generation,
            order=self.order,
            priority=NORMAL_PRIORITY if terms.priority is None else terms.priority,
            not_before=terms.not_before,
            expires_at=terms.expiry(self.since or at),
            collapse_key=terms.collapse_key,
            accepted_at=self.accepted(at),
        )

    def accepted(self, at: datetime) -> datetime:
        """The time of its acceptance: never before `since`, whichever process's clock says `at`."""
        return at if self.since is None else max(at, self.since)

    def unknown(self) -> NotFound:
        return NotFound(f"udid: no device or user {self.target} is enrolled")

    @property
    def named(self) -> str:
        """The subject of an error about it. A client that gave a key never saw the CommandUUID."""
        prepared = self.prepared
        return (
            "Idempotency-Key:" if prepared.is_by_key else f"command_uuid: {prepared.command.uuid}"
        )

    def conflict(self) -> Conflict:
        """Another command of the device has its CommandUUID."""
        if self.prepared.is_by_key:
            return Conflict(
                f"{self.named} was used with another body for this device; use a new key"
            )
        return Conflict(f"{self.named} names another command of this device")

    def settled(self) -> Queued | Exception:
        """What its request gets to hear."""
        if self.outcome is None:
            raise AssertionError("a submission without an outcome")
        if isinstance(self.outcome, MdmError):
            return self.outcome
        return Queued(self.outcome, self.entry, self.warnings)
