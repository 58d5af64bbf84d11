"""One request to queue a command, and its outcome."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from services.commands.queue.targets import Target
from shared.apple.request.plist import PreparedCommand
from shared.domain.command import NORMAL_PRIORITY, QueueEntry
from shared.domain.errors import Conflict, MdmError, NotFound


@dataclass(frozen=True, slots=True)
class Queued:
    """A queued command. `warnings` say why the device may refuse it, each in one sentence."""

    is_new: bool
    """False for a safe retry."""
    entry: QueueEntry
    warnings: tuple[str, ...] = ()


class QueueOutcome(Enum):
    """The fate of a submission that was not refused."""

    QUEUED = auto()
    RETRY = auto()
    """The same command was in the queue, and this is a safe retry."""
    CHANGED = auto()
    """Another process changed the entry meanwhile: look again."""


@dataclass(slots=True, eq=False)
class Submission:
    """One request on its way. An entry with this CommandUUID that was accepted after `since` was queued by
    this very submission."""

    prepared: PreparedCommand
    target: str
    order: str
    since: datetime | None = None
    entry: QueueEntry = field(init=False)
    warnings: tuple[str, ...] = ()
    outcome: QueueOutcome | MdmError | None = None

    def entry_at(self, target: Target, at: datetime) -> QueueEntry:
        """The new entry, accepted at this time."""
        command, terms = self.prepared.command, self.prepared.terms
        begin = terms.not_before
        return QueueEntry(
            enrollment=target.key.id,
            device=target.key.device,
            command_uuid=command.uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation=target.generation,
            order=self.order,
            priority=NORMAL_PRIORITY if terms.priority is None else terms.priority,
            # A begin that is over is none.
            not_before=begin if begin is not None and begin > at else None,
            expires_at=terms.expiry(self.since or at),
            collapse_key=terms.collapse_key,
            accepted_at=self.accepted(at),
        )

    def accepted(self, at: datetime) -> datetime:
        """The time of acceptance: never before `since`, though another process's clock says so."""
        return at if self.since is None else max(at, self.since)

    def unknown(self) -> NotFound:
        return NotFound(f"udid: no device or user {self.target} is enrolled")

    @property
    def named(self) -> str:
        """The subject of errors. A client that gave a key never saw the CommandUUID."""
        is_by_key, uuid = self.prepared.is_by_key, self.prepared.command.uuid
        return "Idempotency-Key:" if is_by_key else f"command_uuid: {uuid}"

    def conflict(self) -> Conflict:
        """The error when another command of the device has its CommandUUID."""
        if self.prepared.is_by_key:
            text = "was used with another body for this device; use a new key"
        else:
            text = "names another command of this device"
        return Conflict(f"{self.named} {text}")

    def result(self) -> Queued | Exception:
        assert self.outcome is not None
        if isinstance(self.outcome, MdmError):
            return self.outcome
        return Queued(self.outcome is QueueOutcome.QUEUED, self.entry, self.warnings)
