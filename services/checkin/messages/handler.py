"""The effect of a device message on the steps that all messages take."""

from typing import ClassVar, Generic, TypeVar

from services.checkin.answers import Answer
from shared.domain.enrollment import Enrollment
from shared.domain.errors import MdmError
from shared.ports.enrollments import Change

M = TypeVar("M")


class Handler(Generic[M]):
    """The defaults are those of a message that becomes an event and changes nothing."""

    changes_enrollment: ClassVar[bool] = False
    """Its device must still be connected when its change is written (rule 1)."""
    begins_enrollment: ClassVar[bool] = False
    """It binds its certificate, and begins a generation unless it renews (rules 4 and 16)."""
    completes_enrollment: ClassVar[bool] = False
    """The device can be pushed from now on, and a renewal under way has ended (rule 16)."""
    is_never_repeated: ClassVar[bool] = False
    """A device sends it once: it counts although another message of the device was applied first."""
    asks_for_command: ClassVar[bool] = False
    """A blocked device gets 401 for it."""
    has_answer: ClassVar[bool] = False
    """The answer depends on the record of the device."""

    def at_once(self, message: M) -> Answer | MdmError:
        """The answer to a message that makes no event."""
        raise NotImplementedError

    def serial_number(self, message: M) -> str | None:
        """The serial number that the device gives."""
        return None

    def result(self, message: M) -> tuple[str | None, str | None]:
        """The status and the CommandUUID that its event shows."""
        return None, None

    def change(self, message: M, change: Change) -> Change:
        """The change with what this message sets."""
        return change

    def answer(self, message: M, device: Enrollment) -> Answer | MdmError:
        """The answer to a journaled message, where `has_answer`."""
        raise NotImplementedError
