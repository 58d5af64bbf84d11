"""What a device asks, and one request's way through the steps of its batch."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shared.apple.messages.checkin import (
    Authenticate,
    CheckinMessage,
    CheckOut,
    SetBootstrapToken,
    TokenUpdate,
)
from shared.apple.messages.connect import Connect
from shared.domain.binding import Binding
from shared.domain.command import Command, QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import BadRequest, MdmError, Refused
from shared.domain.event import Event
from shared.domain.identity import DeviceCertificate
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason


class DeviceRefused(BadRequest):
    """A device's request cannot be served: 400 with an empty body, and one log line."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def not_stored(exchange: "DeviceExchange", what: str, why: Refused) -> DeviceRefused:
    """The refusal of a request for which the store cannot hold `what`."""
    return DeviceRefused(Reason.TOO_LARGE, f"{exchange.request.device}: {what}: {why}")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A message whose signature and certificate chain are good, but that the certificate's time may be
    over.

    `is_connected` tells whether the device still waits for the answer; `signed_at` is when it was signed, by
    the device's clock, where the signature says so.
    """

    message: CheckinMessage | Connect
    shown: DeviceCertificate
    body: bytes = field(repr=False)
    url_params: Mapping[str, str] | None
    is_connected: Callable[[], Awaitable[bool]]
    signed_at: datetime | None = None

    @property
    def certificate(self) -> str:
        """SHA-256 (hex) of the certificate that it proves."""
        return self.shown.fingerprint

    @property
    def device(self) -> str:
        return self.message.key.device

    @property
    def changes_enrollment(self) -> bool:
        """True for what a request that its device gave up must not write (rule 1)."""
        return isinstance(self.message, Authenticate | TokenUpdate | CheckOut | SetBootstrapToken)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the device gets."""

    body: bytes = field(default=b"", repr=False)
    status: int = 200


@dataclass(slots=True, eq=False)
class DeviceExchange:
    """One request in its batch. `device` and `channel` are the records of its device and of its own
    enrollment (the same on a device channel) as read at the beginning. `issued` is what our SCEP knows
    of the certificate that it shows, where somebody asked; `follows`: it is the renewal of the one that
    is bound, shown for the first time; `renews`: an Authenticate that goes on with its enrollment;
    `binding` is what it writes before it is journaled. `is_safe`:
    the event is confirmed, covered by its device's mark, or handed to the writer to find out. `entries`
    are the open ones of its device (None: too many to be read), `next` is the one to send, `command`
    what stands there; `unusable` are ids of entries whose command is missing, or cannot be opened;
    `reported` is the entry on which it reports, where somebody asked."""

    request: DeviceRequest
    device: Enrollment | None = None
    channel: Enrollment | None = None
    issued: IssuedCertificate | None = None
    follows: bool = False
    renews: bool = False
    binding: Binding | None = None
    event: Event | None = None
    answer: Answer = Answer()
    error: MdmError | None = None
    is_safe: bool = False
    entries: Sequence[QueueEntry] | None = ()
    next: QueueEntry | None = None
    command: Command | None = None
    unusable: set[str] = field(default_factory=set)
    reported: QueueEntry | None = None

    @property
    def is_good(self) -> bool:
        return self.error is None

    @property
    def generation(self) -> str | None:
        return None if self.device is None else self.device.generation

    @property
    def removed(self) -> list[str]:
        """The ids of its records that an API client removed: the device has spoken again. An Authenticate
        begins such a record anew by itself."""
        if isinstance(self.request.message, Authenticate):
            return []
        records = (self.device, self.channel)
        return [r.id for r in records if r and r.status is EnrollmentStatus.REMOVED]

    @property
    def outcome(self) -> Answer | MdmError:
        return self.error or self.answer
