"""Answers without end, and receivers that are slow."""

import asyncio
import time

import pytest

from services.webhook.endpoints.sender import AttemptOutcome, HttpSender
from shared.concurrency.clock import SystemClock
from tests.integration.receivers.conftest import TIMEOUT
from tests.integration.receivers.posting import NO_HTTP, OK, send
from tests.support.harness.raw_receiver import Link, RawReceiver, saying

BOMBS = {
    "headers": b"X-Bomb: " + 4000 * b"a" + b"\r\n",
    "one header": 4096 * b"a",
    "interim answers": b"",
}


@pytest.mark.parametrize("kind", BOMBS)
async def test_a_head_without_end_is_not_read_for_long(sender: HttpSender, kind: str) -> None:
    said = 0

    async def bomb(link: Link) -> None:
        nonlocal said
        begin = (
            b"HTTP/1.1 100 Continue\r\n\r\n"
            if kind == "interim answers"
            else b"HTTP/1.1 200 OK\r\n"
        )
        await link.say(begin)
        if kind == "one header":
            await link.say(b"X-Bomb: ")
        while said < 64 * 1024**2:
            await link.say(BOMBS[kind] or 100 * begin)
            said += len(BOMBS[kind]) or 100 * len(begin)

    async with RawReceiver(bomb) as receiver:
        began = time.monotonic()
        outcome = await send(sender, receiver.url)

    assert outcome.reason == NO_HTTP
    assert time.monotonic() - began < TIMEOUT.total_seconds()
    assert said < 16 * 1024**2  # most of it in the buffers of the system


async def test_a_head_that_trickles_ends_at_the_timeout(sender: HttpSender) -> None:
    async def trickle(link: Link) -> None:
        await link.say(b"HTTP/1.1 200 OK\r\n")
        while True:
            await link.say(b"X: 1\r\n")
            await asyncio.sleep(0.05)

    async with RawReceiver(trickle) as receiver:
        began = time.monotonic()
        outcome = await send(sender, receiver.url)

    assert outcome.reason == "no answer within 2 s"
    assert 1.9 < time.monotonic() - began < 4


async def test_a_body_that_trickles_is_left_after_two_seconds() -> None:
    async def trickle(link: Link) -> None:
        await link.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await link.say(b"1\r\na\r\n")
            await asyncio.sleep(0.05)

    async with HttpSender(SystemClock()) as sender, RawReceiver(trickle) as receiver:
        began = time.monotonic()
        outcome = await send(sender, receiver.url)
        await asyncio.sleep(0.2)

        assert outcome.delivered
        assert 1.5 < time.monotonic() - began < 4
        assert receiver.ended == 1


@pytest.mark.parametrize("trailer", [b"X: 1\r\n", 4096 * b"a"], ids=["many", "long"])
async def test_a_trailer_without_end_is_not_read_for_long(
    sender: HttpSender, trailer: bytes
) -> None:
    said = 0

    async def bomb(link: Link) -> None:
        nonlocal said
        await link.say(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\nX-Bomb: "
        )
        while said < 64 * 1024**2:
            await link.say(100 * trailer)
            said += 100 * len(trailer)

    async with RawReceiver(bomb) as receiver:
        outcome = await send(sender, receiver.url)
        await asyncio.sleep(0.05)

        assert outcome.delivered
        assert receiver.ended == 1
        assert said < 16 * 1024**2


async def test_a_receiver_that_does_not_read_ends_at_the_timeout(sender: HttpSender) -> None:
    async def wait(link: Link) -> None:
        await asyncio.sleep(9)

    async with RawReceiver(wait, reads_bodies=False) as receiver:
        outcome = await send(sender, receiver.url, bytes(16 * 1024**2))

    assert outcome.reason == "no answer within 2 s"


async def test_an_answer_may_come_before_the_body_was_sent(sender: HttpSender) -> None:
    """Its status counts; the rest of the body is not sent on, and nothing else on that connection."""

    async def refuse(link: Link) -> None:
        await link.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(9)

    async with RawReceiver(refuse, reads_bodies=False) as receiver:
        outcomes = [await send(sender, receiver.url, bytes(16 * 1024**2)) for _ in range(2)]

        assert {outcome.reason for outcome in outcomes} <= {"answered 413"}
        assert receiver.connections == 2


async def test_a_large_body_arrives_whole(sender: HttpSender) -> None:
    body = bytes(range(256)) * 4096 * 8
    async with RawReceiver(saying(OK)) as receiver:
        outcomes = [await send(sender, receiver.url, body) for _ in range(2)]

        assert outcomes == [AttemptOutcome()] * 2
        assert [request.body == body for request in receiver.requests] == [True, True]
        assert receiver.connections == 1
