"""Each kind of answer, byte by byte, and what its event becomes."""

import asyncio
from datetime import timedelta

import pytest

from services.webhook.endpoints.sender import AttemptOutcome, HttpSender
from tests.integration.receivers.posting import BODY, CLOSED, NO_HTTP, OK, send
from tests.support.harness.raw_receiver import Link, RawReceiver, saying

KEPT = {
    "with a length": OK,
    "without a body": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "in chunks with extensions and a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    "204 without a length": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no reason phrase": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "a reason phrase beyond ASCII": b"HTTP/1.1 200 \xc3\xb6k\r\nContent-Length: 0\r\n\r\n",
    "lines that end in LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "names in lower case": b"HTTP/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok",
    "a header beyond ASCII": b"HTTP/1.1 200 OK\r\nX-A: \xff\xfe\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0 with keep-alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "102 and 103 first": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    + OK,
    "many short headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: 1\r\n" % n for n in range(100))
    + b"Content-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("answer", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("is_cut", [False, True], ids=["at once", "byte by byte"])
async def test_a_well_framed_answer_is_a_delivery_and_keeps_its_connection(
    sender: HttpSender, answer: bytes, is_cut: bool
) -> None:
    async def say(link: Link) -> None:
        for piece in range(len(answer)) if is_cut else ():
            await link.say(answer[piece : piece + 1])
            if piece < 60:
                await asyncio.sleep(0.001)
        if not is_cut:
            await link.say(answer)

    async with RawReceiver(say) as receiver:
        outcomes = [await send(sender, receiver.url) for _ in range(3)]

        assert outcomes == [AttemptOutcome()] * 3
        assert [request.body for request in receiver.requests] == [BODY] * 3
        assert receiver.connections == 1


ONCE = {
    "connection: close": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        True,
    ),
    "connection: close, and it stays open": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        False,
    ),
    "until the end of the connection": (b"HTTP/1.1 200 OK\r\n\r\nok", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", True),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "a body that breaks off": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nok", True),
    "chunks that break off": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
        True,
    ),
    "chunks that are none": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
        False,
    ),
    "a body that does not come": (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", False),
    "bytes after the answer": (OK + b"more", False),
    "a body where none may be": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", False),
    "another answer after the answer": (
        OK + b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        False,
    ),
}


@pytest.mark.parametrize(("answer", "then_close"), ONCE.values(), ids=ONCE)
async def test_after_an_answer_of_unsure_end_the_next_post_has_a_connection_of_its_own(
    sender: HttpSender, answer: bytes, then_close: bool
) -> None:
    async with RawReceiver(saying(answer, then_close=then_close)) as receiver:
        outcomes = [await send(sender, receiver.url) for _ in range(3)]

        assert outcomes == [AttemptOutcome()] * 3
        assert receiver.connections == len(receiver.requests) == 3


async def test_an_answer_that_nobody_asked_for_answers_no_later_post(sender: HttpSender) -> None:
    async def say(link: Link) -> None:
        await link.say(OK if link.number == 0 else b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.05)
        await link.say(OK)

    async with RawReceiver(say) as receiver:
        first = await send(sender, receiver.url)
        await asyncio.sleep(0.15)
        second = await send(sender, receiver.url)

    assert first.delivered
    assert second.status == 500


REFUSALS = {
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n", 302),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", 304),
    "304 with the length of what is not there": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
        304,
    ),
    "an error with a page": (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\npage", 500),
    "101": (b"HTTP/1.1 101 Switching\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", 101),
    "a status that nobody knows": (b"HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n", 799),
}


@pytest.mark.parametrize(("answer", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_any_other_status_is_named(sender: HttpSender, answer: bytes, status: int) -> None:
    async with RawReceiver(saying(answer)) as receiver:
        outcomes = [await send(sender, receiver.url) for _ in range(2)]

    said = f"answered {status}" + (": redirects are not followed" if status == 302 else "")
    assert outcomes == [AttemptOutcome(said, status=status)] * 2


async def test_retry_after_is_found_by_any_spelling_of_its_name(sender: HttpSender) -> None:
    answer = (
        b"HTTP/1.1 503 Busy\r\nX-Retry-After: 1\r\nretry-AFTER:  7 \r\nContent-Length: 0\r\n\r\n"
    )
    async with RawReceiver(saying(answer)) as receiver:
        outcome = await send(sender, receiver.url)

    assert outcome.asked == timedelta(seconds=7)


async def test_retry_after_of_an_interim_answer_does_not_count(sender: HttpSender) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nRetry-After: 3000\r\n\r\n"
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    )
    async with RawReceiver(saying(answer)) as receiver:
        outcome = await send(sender, receiver.url)

    assert outcome == AttemptOutcome("answered 503", status=503)


NO_ANSWERS = {
    "garbage": (b"\x00\x01garbage\r\n\r\n", False, NO_HTTP),
    "another protocol": (b"220 mail.example ESMTP\r\n", False, NO_HTTP),
    "HTTP/2": (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\x10\0\0\0\6\0\0\x40\0", False, NO_HTTP),
    "HTTP/0.9": (b"<html>hello</html>\n", True, NO_HTTP),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", False, NO_HTTP),
    "a length that is none": (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", False, NO_HTTP),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        False,
        NO_HTTP,
    ),
    "nothing": (b"", True, CLOSED),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", True, CLOSED),
    "half a status line": (b"HTTP/1.", True, CLOSED),
    "100 and nothing else": (b"HTTP/1.1 100 Continue\r\n\r\n", True, CLOSED),
}


@pytest.mark.parametrize(("answer", "then_close", "reason"), NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_is_a_failure(
    sender: HttpSender, answer: bytes, then_close: bool, reason: str
) -> None:
    async with RawReceiver(saying(answer, then_close=then_close)) as receiver:
        outcomes = [await send(sender, receiver.url) for _ in range(2)]

        assert outcomes == [AttemptOutcome(reason)] * 2
        assert receiver.connections == len(receiver.requests) == 2


async def test_a_reset_instead_of_an_answer_is_a_failure(sender: HttpSender) -> None:
    async def reset(link: Link) -> None:
        link.reset()

    async with RawReceiver(reset) as receiver:
        assert await send(sender, receiver.url) == AttemptOutcome(CLOSED)


async def test_a_reset_in_the_middle_of_a_body_leaves_its_status(sender: HttpSender) -> None:
    async def reset(link: Link) -> None:
        await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nok")
        await asyncio.sleep(0.05)
        link.reset()

    async with RawReceiver(reset) as receiver:
        assert (await send(sender, receiver.url)).delivered
