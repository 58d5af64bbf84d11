"""Events as check-in makes them, for tests of brokers."""

from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic


def idle_event(number: int, device: str, payload: bytes = b"<plist/>") -> Event:
    """The Idle of a device; of two events the one with the higher number is the later one."""
    return Event(
        id=f"00000000-0000-7000-8000-{number:012d}",
        topic=Topic.CONNECT,
        key=EnrollmentKey(device, device, udid=device),
        created_at=1_534_170_616_789_541_405 + number,
        raw_payload=payload,
        writer="w",
        number=number,
        status="Idle",
    )
