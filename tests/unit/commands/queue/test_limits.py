"""How many commands of one queue may be open."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from services.commands.queue.limits import OpenLimit
from services.commands.queue.requeue import QueueRules
from shared.domain.command import EntryState, QueueEntry
from shared.domain.errors import TooManyRequests
from tests.support.commands_world import MAC, PAD, World
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.queue import FakeCommandQueue

SECOND = timedelta(seconds=1)


class Counted(FakeCommandQueue):
    """Notes when open entries were counted."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self.counted_at: list[float] = []

    async def count_open(self, enrollment: object) -> int:
        self.counted_at.append(self._clock.monotonic())
        return await super().count_open(enrollment)  # type: ignore[arg-type]  # handed on


def entry(number: int, enrollment: str = "MAC") -> QueueEntry:
    return QueueEntry(
        enrollment, enrollment, f"c-{number}", "hash", "ProfileList", None, str(number)
    )


class Desk:
    """Queues what the limit lets through."""

    def __init__(self, limit: int, **bounds: int) -> None:
        self.clock = FakeClock()
        self.queue = Counted(self.clock)
        self.limit = OpenLimit(self.queue, self.clock, limit, **bounds)

    async def offer(self, *entries: QueueEntry) -> list[bool]:
        refusals = await self.limit.check(entries)
        taken = [entry for entry, no in zip(entries, refusals, strict=True) if no is None]
        await self.queue.insert(taken)
        return [no is None for no in refusals]


async def test_a_full_queue_takes_no_more() -> None:
    desk = Desk(limit=3)

    taken = [await desk.offer(entry(number)) for number in range(5)]

    assert taken == [[True], [True], [True], [False], [False]]


async def test_requests_that_come_together_do_not_exceed_the_limit() -> None:
    desk = Desk(limit=3)

    assert await desk.offer(*map(entry, range(5))) == [True, True, True, False, False]


async def test_each_queue_has_a_limit_of_its_own() -> None:
    desk = Desk(limit=1)

    assert await desk.offer(entry(1), entry(2, "PAD"), entry(3, "MAC")) == [True, True, False]


async def test_the_refusal_names_the_limit_and_the_way_out() -> None:
    desk = Desk(limit=1)
    await desk.offer(entry(1))

    [refusal] = await desk.limit.check([entry(2)])

    assert refusal is not None
    assert "MDM_MAX_OPEN_COMMANDS" in str(refusal)
    assert "DELETE /v1/commands/{udid}" in str(refusal)


async def test_a_drained_queue_takes_commands_again_after_a_second() -> None:
    desk = Desk(limit=2)
    await desk.offer(entry(1), entry(2))
    await desk.offer(entry(3))
    await desk.queue.cancel([MAC])
    too_soon = await desk.offer(entry(4))
    desk.clock.advance(SECOND)

    assert (too_soon, await desk.offer(entry(5))) == ([False], [True])


async def test_a_queue_is_counted_at_most_once_a_second() -> None:
    desk = Desk(limit=5)

    for number in range(100):
        await desk.offer(entry(number))
        desk.clock.advance(SECOND / 10)

    times = desk.queue.counted_at
    assert len(times) > 3
    assert all(b - a >= 0.999 for a, b in pairwise(times))


async def test_a_queue_with_few_commands_is_not_counted() -> None:
    desk = Desk(limit=10_000)

    for number in range(100):
        await desk.offer(entry(number))
        desk.clock.advance(SECOND)

    assert desk.queue.counted_at == []


async def test_what_others_added_is_found_once_one_percent_was_added_here() -> None:
    desk = Desk(limit=1000)
    await desk.queue.insert([entry(number) for number in range(2000, 2995)])

    taken = [await desk.offer(entry(number)) for number in range(20)]

    # eleven were added before it was counted, and 995 were there
    assert taken == [[True]] * 11 + [[False]] * 9


@pytest.mark.parametrize("state", [EntryState.QUEUED, EntryState.ACKNOWLEDGED])
async def test_a_command_that_a_full_queue_holds_is_a_safe_retry(state: EntryState) -> None:
    desk = Desk(limit=1)
    await desk.offer(entry(1))
    desk.queue.entries[entry(1).id] = replace(entry(1), state=state)

    assert await desk.limit.check([entry(1)]) == [None]


async def test_what_is_known_is_bounded() -> None:
    desk = Desk(limit=1, most_known=2)

    await desk.offer(*(entry(1, enrollment) for enrollment in ("A", "B", "C")))

    assert await desk.offer(entry(2, "C"), entry(2, "B")) == [False, False]
    assert await desk.offer(entry(2, "A")) == [True]


async def test_a_client_of_a_full_queue_is_refused_and_one_of_another_is_not() -> None:
    world = World(rules=QueueRules(max_open=2))
    for number in range(2):
        await world.post(uuid=f"c-{number}")

    with pytest.raises(TooManyRequests):
        await world.post(uuid="c-2")

    assert await world.post("PAD", uuid="c-2")
    assert await world.post(uuid="c-1") is False
    assert len(await world.queue.open_entries(MAC)) == 2
    assert len(await world.queue.open_entries(PAD)) == 1
