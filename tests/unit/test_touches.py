"""Commands are stored before they get a place."""

from datetime import timedelta

from services.commands.submissions import Submission
from services.commands.touches import TOUCHED_FOR, Touches
from shared.apple.command_plist import PreparedCommand, written
from tests.fakes.clock import START, FakeClock
from tests.fakes.queue import FakeCommandQueue


class Desk:
    """Counts how often something was sent to the store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.stored = 0
        self.queue = FakeCommandQueue(self._count)
        self.touches = Touches(self.queue, self.clock)

    async def _count(self, operation: str) -> None:
        self.stored += operation == "store"

    async def store(self, *, is_bulk: bool, uuid: str = "c-1") -> None:
        prepared = PreparedCommand(("D",), written(uuid, "ProfileList", {}), {})
        submission = Submission(prepared, "D", "1", START if is_bulk else None)
        await self.touches.store([submission, submission])


async def test_a_command_for_one_device_is_stored_each_time() -> None:
    desk = Desk()

    for _ in range(3):
        await desk.store(is_bulk=False)

    assert desk.stored == 3


async def test_a_command_for_many_is_stored_once_and_touched_now_and_then() -> None:
    desk = Desk()

    for _ in range(3):
        await desk.store(is_bulk=True)
    once = desk.stored
    desk.clock.advance(TOUCHED_FOR)
    await desk.store(is_bulk=True)
    touched = await desk.queue.untouched("", START + timedelta(microseconds=1))

    assert (once, desk.stored) == (1, 2)
    assert touched == {}


async def test_another_command_for_many_is_stored_too() -> None:
    desk = Desk()

    await desk.store(is_bulk=True)
    await desk.store(is_bulk=True, uuid="c-2")

    assert desk.stored == 2
