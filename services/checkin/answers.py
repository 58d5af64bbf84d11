"""Answers to devices."""

from dataclasses import dataclass, field

from shared.domain.errors import BadRequest
from shared.telemetry.metrics import Reason


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a device: a property list, or nothing."""

    body: bytes = field(default=b"", repr=False)
    status: int = 200


EMPTY = Answer()


class DeviceRefused(BadRequest):
    """A device's request cannot be served: 400 with an empty body, and one log line."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
