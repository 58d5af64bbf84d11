"""Calls that wait for a device's answer."""

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.types import Message

from services.commands.history.long_poll import LongPoll, read_wait
from shared.concurrency.periodic import Loops
from shared.domain.command import EntryState, QueueEntry
from shared.domain.errors import BadRequest, StoreUnavailable, TooManyRequests
from shared.web.body import until_gone
from tests.support.fakes.clock import FakeClock, settle
from tests.support.fakes.queue import FakeCommandQueue

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


class Looked(FakeCommandQueue):
    """Counts the looks at entries, and how many each was for; fails while it `is_away`."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []
        self.is_away = False

    async def entries_of(self, ids: Collection[str]) -> dict[str, QueueEntry]:
        self.looks.append(len(ids))
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().entries_of(ids)


class Hall:
    """A process with calls that wait; use it in `async with`."""

    def __init__(self, most_each: int = 100, most_in_all: int = 1000) -> None:
        self.clock = FakeClock()
        self.queue = Looked()
        self.poll = LongPoll(self.queue, self.clock, MINUTE, most_each, most_in_all)
        self.gone = asyncio.Event()

    async def __aenter__(self) -> "Hall":
        self._loop = asyncio.create_task(self.poll.run(Loops(self.clock)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def call(self, name: str = "c-1", within: timedelta = MINUTE) -> "asyncio.Task[object]":
        """A call for an entry that is queued unless it is there."""
        self.queue.entries.setdefault(entry(name).id, entry(name))
        task = asyncio.create_task(self._call(entry(name).id, within))
        await settle()
        return task

    async def _call(self, entry_id: str, within: timedelta) -> QueueEntry | None:
        async def gone() -> None:
            await self.gone.wait()

        with self.poll.slot("ci"):
            return await self.poll.final(entry_id, within, gone)

    def end(self, name: str = "c-1", state: EntryState = EntryState.ACKNOWLEDGED) -> QueueEntry:
        ended = replace(entry(name), state=state)
        self.queue.entries[ended.id] = ended
        return ended


def entry(name: str) -> QueueEntry:
    return QueueEntry("MAC", "MAC", name, "hash", "ProfileList", None, name)


@pytest.mark.parametrize("state", [s for s in EntryState if not s.is_open])
async def test_a_call_ends_soon_after_its_entry_has(state: EntryState) -> None:
    async with Hall() as hall:
        call = await hall.call()
        await hall.clock.run(10 * SECOND)
        ended = hall.end(state=state)

        await hall.clock.run(SECOND / 4)

        assert call.done() and call.result() == ended


async def test_a_call_waits_through_the_states_that_are_open() -> None:
    async with Hall() as hall:
        call = await hall.call()

        for state in (EntryState.SENT, EntryState.NOT_NOW):
            hall.end(state=state)
            await hall.clock.run(SECOND)

        assert not call.done()


async def test_a_call_ends_when_its_time_is_over() -> None:
    async with Hall() as hall:
        call = await hall.call(within=SECOND * 2.5)
        await hall.clock.run(SECOND * 2.4)
        assert not call.done()

        await hall.clock.run(SECOND * 0.1)

        assert call.done() and call.result() is None


async def test_a_call_ends_in_time_though_the_store_is_away() -> None:
    async with Hall() as hall:
        call = await hall.call(within=2 * SECOND)
        hall.queue.is_away = True

        await hall.clock.run(2 * SECOND)

        assert call.done() and call.result() is None


async def test_an_answer_that_came_while_the_store_was_away_is_not_missed() -> None:
    async with Hall() as hall:
        call = await hall.call()
        hall.queue.is_away = True
        ended = hall.end()
        await hall.clock.run(10 * SECOND)
        hall.queue.is_away = False

        await hall.clock.run(SECOND)

        assert call.result() == ended


async def test_a_call_whose_client_is_gone_frees_its_slot() -> None:
    async with Hall(most_each=1) as hall:
        gone = await hall.call()
        hall.gone.set()
        await settle()
        assert gone.done()
        hall.gone.clear()

        call = await hall.call("c-2")

        assert not call.done()


async def test_an_entry_that_is_gone_ends_its_call() -> None:
    async with Hall() as hall:
        call = await hall.call()
        hall.queue.entries.clear()

        await hall.clock.run(SECOND)

        assert call.result() is None


async def test_nothing_looks_while_nobody_waits() -> None:
    async with Hall() as hall:
        await hall.clock.run(MINUTE)
        call = await hall.call()
        hall.end()
        await hall.clock.run(SECOND)
        assert call.done()
        looks = len(hall.queue.looks)

        await hall.clock.run(MINUTE)

        assert (looks, len(hall.queue.looks)) == (1, 1)


async def test_all_calls_are_looked_for_together() -> None:
    async with Hall() as hall:
        calls = [await hall.call(f"c-{number}") for number in range(40)]
        calls.append(await hall.call("c-0"))
        await hall.clock.run(timedelta(milliseconds=250))
        looks = list(hall.queue.looks)
        ended = hall.end("c-0")

        await hall.clock.run(SECOND)

        assert looks == [32, 8]
        assert [call.result() for call in (calls[0], calls[-1])] == [ended, ended]
        assert not any(call.done() for call in calls[1:-1])


async def test_the_more_calls_wait_the_rarer_are_the_looks() -> None:
    async with Hall(most_each=500) as hall:
        for number in range(500):
            await hall.call(f"c-{number}")

        await hall.clock.run(10 * SECOND)

        assert len(hall.queue.looks) <= 10 * 16


async def test_calls_over_the_limit_of_their_key_are_refused() -> None:
    async with Hall(most_each=2) as hall:
        calls = [await hall.call(f"c-{number}") for number in range(2)]

        with pytest.raises(TooManyRequests, match="MDM_MAX_WAITING"):
            await (await hall.call("c-3"))

        with hall.poll.slot("another"):
            pass
        hall.end("c-0")
        await hall.clock.run(SECOND)
        assert calls[0].done()
        assert not (await hall.call("c-3")).done()


async def test_all_keys_together_have_a_limit_too() -> None:
    async with Hall(most_in_all=1) as hall:
        await hall.call()

        with pytest.raises(TooManyRequests), hall.poll.slot("another"):
            pass


async def test_all_calls_end_at_once_when_the_process_ends() -> None:
    async with Hall() as hall:
        calls = [await hall.call(f"c-{number}") for number in range(3)]

        hall.poll.stop()
        await settle()
        late = await hall.call("c-4")

        assert [call.done() and call.result() for call in (*calls, late)] == [None] * 4


async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async with Hall(most_each=1) as hall:
        call = await hall.call()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        assert not (await hall.call()).done()


def asked(query: str) -> str | None:
    return QueryParams(query).get("wait")


@pytest.mark.parametrize(
    ("query", "seconds"), [("wait=5", 5), ("wait=0.5", 0.5), ("wait=120", 120), ("wait=1e1", 10)]
)
def test_seconds_are_read(query: str, seconds: float) -> None:
    assert read_wait(asked(query), 2 * MINUTE) == timedelta(seconds=seconds)


def test_without_the_parameter_nobody_waits() -> None:
    assert read_wait(asked("weight=5"), MINUTE) is None


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "121", "nan", "inf", "1_0", "5s", "+5", "%205", "%D9%A5", "5,5"]
)
def test_what_is_no_time_to_wait_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(BadRequest, match=r"wait: expected seconds.*120") as refused:
        read_wait(asked(f"wait={text}"), 2 * MINUTE)

    assert refused.value.faults[0].path == "wait"


async def test_a_client_is_gone_once_its_connection_is() -> None:
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    await until_gone(Request({"type": "http", "headers": []}, receive))

    assert list(messages) == []
