"""Commands are stored before they get an entry."""

from datetime import timedelta

from services.commands.queue.service import TOUCHED_FOR, TouchedCommands
from services.commands.queue.submission import Submission
from shared.apple.request.plist import PreparedCommand, encode_command
from tests.support.fakes.clock import START, FakeClock
from tests.support.fakes.queue import FakeCommandQueue


class Desk:
    """Stores what is missing, and counts how often."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.stored = 0
        self.queue = FakeCommandQueue()
        self.touched = TouchedCommands()

    async def store(self, *uuids: str, is_bulk: bool, uuid: str = "c-1") -> None:
        """The command `uuid` twice, and others of `uuids` beside it."""
        commands = [encode_command(each, "ProfileList", {}) for each in (uuid, uuid, *uuids)]
        since = START if is_bulk else None
        submissions = [
            Submission(PreparedCommand(("D",), each, {}), "D", "1", since) for each in commands
        ]
        now = self.clock.monotonic()
        missing = self.touched.missing_of(submissions, now)
        await self.queue.store(missing, self.clock.now())
        self.touched.note(submissions, missing, now)
        self.stored += bool(missing)


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


async def test_a_command_is_touched_in_time_whatever_is_stored_beside_it() -> None:
    desk = Desk()
    await desk.store(is_bulk=True)

    for number in range(3):
        desk.clock.advance(TOUCHED_FOR * 0.6)
        await desk.store(f"other-{number}", is_bulk=True)
    touched = await desk.queue.untouched("", desk.clock.now() - TOUCHED_FOR)

    assert encode_command("c-1", "ProfileList", {}).hash not in touched
