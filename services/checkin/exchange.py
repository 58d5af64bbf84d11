"""A device's request, and its way through the steps of its batch."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.checkin.answers import EMPTY, Answer, DeviceRefused
from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import CheckinMessage
from shared.apple.messages.connect import Connect
from shared.domain.binding import Binding
from shared.domain.command import Command, QueueEntry
from shared.domain.enrollment import Enrollment
from shared.domain.errors import MdmError, Refused
from shared.domain.event import Event, Topic
from shared.domain.identity import DeviceCertificate
from shared.domain.outbox import OutboxEvent
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason


@dataclass(frozen=True, slots=True)
class Derived:
    """An event that follows from a message, without its number and its time."""

    id: str
    topic: Topic
    facts: Mapping[str, Any]
    command_uuid: str | None = None


@dataclass(slots=True, eq=False)
class DeviceExchange:
    """A message of good signature and certificate chain, with what each step of its batch has added.

    `certificate` is the one that the request proves; it may have expired. `is_connected` says whether the
    device still waits for the answer. `signed_at` is the time of the signature by the device's clock, if the
    signature has one.
    """

    message: CheckinMessage | Connect
    handler: Handler[Any]
    certificate: DeviceCertificate
    body: bytes = field(repr=False)
    url_params: Mapping[str, str] | None
    is_connected: Callable[[], Awaitable[bool]]
    signed_at: datetime | None = None

    answer: Answer = field(default=EMPTY, init=False)
    error: MdmError | None = field(default=None, init=False)

    # read: the records of the device and of the enrollment (the same one on a device channel)
    device: Enrollment | None = field(default=None, init=False)
    channel: Enrollment | None = field(default=None, init=False)
    generation: str | None = field(default=None, init=False)
    """That of the device."""

    # authorization
    issued: IssuedCertificate | None = field(default=None, init=False)
    """The record of our SCEP about `certificate`."""
    follows: bool = field(default=False, init=False)
    """The certificate renews the bound one and is shown for the first time."""
    renews: bool = field(default=False, init=False)
    """An Authenticate that goes on with its enrollment."""
    binding: Binding | None = field(default=None, init=False)

    # journal and broker
    event: Event | None = field(default=None, init=False)
    answer_read: bytes | None = field(default=None, init=False)
    """The JSON of a large answer, where an event is to have it."""
    follows_from_answer: Derived | None = field(default=None, init=False)
    outbox_event: OutboxEvent | None = field(default=None, init=False)
    """The event that the change of this message keeps."""
    unsafe: list[Event] = field(default_factory=list, init=False)
    """The event, and those that follow from it, until each is confirmed, covered by its device's mark, or
    left to the writer to find out; in their order."""

    # the next command
    entries: Collection[QueueEntry] | None = field(default=(), init=False)
    """The open entries of the device; None: too many to read."""
    next: QueueEntry | None = field(default=None, init=False)
    command: Command | None = field(default=None, init=False)
    """The command of `next`."""
    unusable: set[str] = field(default_factory=set, init=False)
    """Ids of entries whose command is missing or cannot be decrypted."""
    sent_by: str | None = field(default=None, init=False)
    """The name of the send of `next`; None: it was not sent."""
    reported: QueueEntry | None = field(default=None, init=False)
    """The entry on which the device reports."""

    def settle(self, outcome: Answer | MdmError) -> None:
        """Set the answer, or the error unless there is one."""
        if isinstance(outcome, Answer):
            self.answer = outcome
        else:
            self.error = self.error or outcome


def not_stored(exchange: DeviceExchange, what: str, why: Refused) -> DeviceRefused:
    """The refusal of a request for which the store cannot hold `what`."""
    return DeviceRefused(Reason.TOO_LARGE, f"{exchange.message.key.device}: {what}: {why}")
