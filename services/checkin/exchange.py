"""A device's request, and its way through the steps of its batch."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.checkin.answers import EMPTY, Answer, DeviceRefused
from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import CheckinMessage
from shared.apple.messages.connect import Connect
from shared.domain.binding import Binding
from shared.domain.command import Command, QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import MdmError, Refused
from shared.domain.event import Event
from shared.domain.identity import DeviceCertificate
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A message of good signature and certificate chain; the certificate may have expired.

    `is_connected` says whether the device still waits for the answer. `signed_at` is the time of the
    signature by the device's clock, if the signature has one.
    """

    message: CheckinMessage | Connect
    shown: DeviceCertificate
    body: bytes = field(repr=False)
    url_params: Mapping[str, str] | None
    is_connected: Callable[[], Awaitable[bool]]
    signed_at: datetime | None = None

    @property
    def certificate(self) -> str:
        """SHA-256 (hex) of the certificate that the request proves."""
        return self.shown.fingerprint

    @property
    def device(self) -> str:
        return self.message.key.device


@dataclass(slots=True, eq=False)
class DeviceExchange:
    """One request in its batch, with what each step has added."""

    request: DeviceRequest
    handler: Handler[Any]
    answer: Answer = EMPTY
    error: MdmError | None = None

    # read: the records of the device and of the enrollment (the same one on a device channel)
    device: Enrollment | None = None
    channel: Enrollment | None = None

    # authorization
    issued: IssuedCertificate | None = None
    """The record of our SCEP about the certificate that the request shows."""
    follows: bool = False
    """The certificate renews the bound one and is shown for the first time."""
    renews: bool = False
    """An Authenticate that goes on with its enrollment."""
    binding: Binding | None = None

    # journal and broker
    event: Event | None = None
    is_safe: bool = False
    """The event is confirmed, covered by its device's mark, or left to the writer to find out."""

    # the next command
    entries: Sequence[QueueEntry] | None = ()
    """The open entries of the device; None: too many to read."""
    next: QueueEntry | None = None
    command: Command | None = None
    """The command of `next`."""
    unusable: set[str] = field(default_factory=set)
    """Ids of entries whose command is missing or cannot be decrypted."""
    reported: QueueEntry | None = None
    """The entry on which the device reports."""

    @property
    def is_good(self) -> bool:
        return self.error is None

    @property
    def generation(self) -> str | None:
        return None if self.device is None else self.device.generation

    @property
    def enrollment(self) -> tuple[str | None, str | None]:
        """Generation and certificate."""
        return self.generation, None if self.device is None else self.device.certificate

    @property
    def removed(self) -> list[str]:
        """The ids of its records that an API client removed. An Authenticate begins such a record again
        without help."""
        if self.handler.begins_enrollment:
            return []
        records = (self.device, self.channel)
        return [r.id for r in records if r and r.status is EnrollmentStatus.REMOVED]

    def settle(self, outcome: Answer | MdmError) -> None:
        """Set the answer, or the error unless there is one."""
        if isinstance(outcome, Answer):
            self.answer = outcome
        else:
            self.error = self.error or outcome

    @property
    def outcome(self) -> Answer | MdmError:
        return self.error or self.answer


def not_stored(exchange: DeviceExchange, what: str, why: Refused) -> DeviceRefused:
    """The refusal of a request for which the store cannot hold `what`."""
    return DeviceRefused(Reason.TOO_LARGE, f"{exchange.request.device}: {what}: {why}")
