"""Which posts share a connection, and what becomes of it."""

import asyncio
import os

import pytest

from services.webhook.endpoints.sender import AttemptOutcome, HttpSender
from shared.concurrency.clock import SystemClock
from tests.integration.receivers.names import Names
from tests.integration.receivers.posting import CLOSED, OK, send
from tests.support.harness.raw_receiver import Answer, Link, RawReceiver, saying


async def test_a_connection_that_its_receiver_closed_is_not_used_again(sender: HttpSender) -> None:
    async def say(link: Link) -> None:
        await link.say(OK)
        link.close()

    async with RawReceiver(say) as receiver:
        for _ in range(3):
            assert (await send(sender, receiver.url)).delivered
            await asyncio.sleep(0.02)

        assert receiver.connections == 3


async def test_a_connection_closed_just_as_we_post_is_a_failure_and_the_next_post_works(
    sender: HttpSender,
) -> None:
    """Nobody can know whether such a post was read, so it counts as not delivered, and is repeated later."""

    async def say(link: Link) -> None:
        if link.number == 0 and sum(r.connection == 0 for r in receiver.requests) == 2:
            link.close()
        else:
            await link.say(OK)

    async with RawReceiver(say) as receiver:
        outcomes = [await send(sender, receiver.url) for _ in range(3)]

        assert outcomes == [AttemptOutcome(), AttemptOutcome(CLOSED), AttemptOutcome()]
        assert [request.connection for request in receiver.requests] == [0, 0, 1]


async def unasked_answer(link: Link) -> None:
    os.write(link.writer.get_extra_info("socket").fileno(), OK)


async def end(link: Link) -> None:
    link.writer.write_eof()
    await asyncio.sleep(0)  # uvloop shuts down at the end of its turn


@pytest.mark.parametrize("act", [unasked_answer, end], ids=["answer", "end"])
async def test_a_connection_with_something_to_read_is_not_used_again(
    sender: HttpSender, act: Answer
) -> None:
    """Even if the loop has had no turn to read it."""

    async def say(link: Link) -> None:
        await link.say(OK if link.number == 0 else b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")

    async with RawReceiver(say) as receiver:
        first = await send(sender, receiver.url)
        await act(receiver.links[0])
        second = await send(sender, receiver.url)

        assert (first.status, second.status) == (None, 500)
        assert [request.connection for request in receiver.requests] == [0, 1]


async def test_posts_side_by_side_each_get_their_own_answer(sender: HttpSender) -> None:
    async def say(link: Link) -> None:
        [mine] = [r for r in receiver.requests[-1:]]
        status = int(mine.body)
        await asyncio.sleep(0.02 * (status % 7))
        await link.say(b"HTTP/1.1 %d Odd\r\nContent-Length: 0\r\n\r\n" % status)

    statuses = range(400, 464)
    async with RawReceiver(say) as receiver:
        for _ in range(3):
            bodies = [str(status).encode() for status in statuses]
            outcomes = await asyncio.gather(*(send(sender, receiver.url, body) for body in bodies))
            assert [outcome.status for outcome in outcomes] == list(statuses)

        assert receiver.connections <= len(statuses)


async def test_a_post_that_is_cancelled_leaves_no_connection_in_use(sender: HttpSender) -> None:
    async def say(link: Link) -> None:
        if link.number == 0:
            await asyncio.sleep(0.1)
        await link.say(OK)

    async with RawReceiver(say) as receiver:
        task = asyncio.ensure_future(send(sender, receiver.url))
        while not receiver.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await send(sender, receiver.url)).delivered

        assert [request.connection for request in receiver.requests] == [0, 1]


async def test_a_sender_that_ends_leaves_no_connection() -> None:
    async with RawReceiver(saying(OK)) as receiver:
        async with HttpSender(SystemClock()) as sender:
            await asyncio.gather(*(send(sender, receiver.url) for _ in range(5)))
        await asyncio.sleep(0.05)

        assert receiver.ended == receiver.connections == 5


async def test_a_sender_that_ends_ends_connections_that_are_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Names(monkeypatch, {"hooks.example": ["127.0.0.1"]}, seconds=0.1)
    async with RawReceiver(saying(OK)) as receiver:
        async with HttpSender(SystemClock()) as sender:
            url = receiver.url.replace("127.0.0.1", "hooks.example")
            post = asyncio.ensure_future(send(sender, url))
            await asyncio.sleep(0.02)
        outcome = await post
        await asyncio.sleep(0.05)

        assert outcome.reason == "cannot connect: no details"
        assert (receiver.requests, receiver.ended) == ([], receiver.connections)


async def test_a_connection_without_use_is_closed_before_common_servers_do() -> None:
    async with HttpSender(SystemClock()) as sender, RawReceiver(saying(OK)) as receiver:
        await send(sender, receiver.url)
        await asyncio.sleep(3.5)
        kept = receiver.ended
        await asyncio.sleep(2.5)

        assert (kept, receiver.ended) == (0, 1)
