"""Commands for one device go to the store before those for many."""

import asyncio

from services.commands.queue.priority import Priority
from tests.support.fakes.clock import settle


async def test_a_piece_waits_for_those_that_are_under_way_and_no_longer() -> None:
    priority = Priority()
    ends = [asyncio.Event(), asyncio.Event()]

    async def single(end: asyncio.Event) -> None:
        with priority.interactive():
            await end.wait()

    first = asyncio.create_task(single(ends[0]))
    await settle()
    piece = asyncio.create_task(priority.yield_to_interactive())
    await settle()
    later = asyncio.create_task(single(ends[1]))
    await settle()
    assert not piece.done()

    ends[0].set()
    await settle()

    assert piece.done() and not later.done()
    ends[1].set()
    await asyncio.gather(first, later)


async def test_a_piece_waits_once_more_for_the_requests_that_it_waited_for() -> None:
    """Their entries of the audit log, before which no client is answered."""
    priority = Priority()
    ends = [asyncio.Event() for _ in range(4)]

    async def request(*steps: asyncio.Event) -> None:
        for end in steps:
            with priority.interactive():
                await end.wait()

    first = asyncio.create_task(request(*ends[:3]))
    await settle()
    piece = asyncio.create_task(priority.yield_to_interactive())
    await settle()
    later = asyncio.create_task(request(ends[3]))
    ends[0].set()
    await settle()
    assert not piece.done()

    ends[1].set()
    await settle()

    assert piece.done() and not first.done() and not later.done()
    ends[2].set()
    ends[3].set()
    await asyncio.gather(first, later)


async def test_a_request_that_holds_it_twice_holds_nobody_up() -> None:
    priority = Priority()
    end = asyncio.Event()

    async def request() -> None:
        with priority.interactive():
            await end.wait()
            with priority.interactive():
                pass

    single = asyncio.create_task(request())
    await settle()
    piece = asyncio.create_task(priority.yield_to_interactive())
    await settle()
    end.set()

    await asyncio.wait_for(asyncio.gather(single, piece), 1)


async def test_a_piece_waits_for_nobody_when_nobody_is_there() -> None:
    async with asyncio.timeout(1):
        await Priority().yield_to_interactive()


async def test_one_that_fails_or_is_cancelled_holds_nobody_up() -> None:
    priority = Priority()

    async def single() -> None:
        with priority.interactive():
            await asyncio.Event().wait()

    task = asyncio.create_task(single())
    await settle()
    piece = asyncio.create_task(priority.yield_to_interactive())
    await settle()

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(1):
        await piece
