"""Reading of bodies: small ones at once, large ones in a thread, one at a time."""

import asyncio
import threading
import time

import pytest

from shared.domain.errors import BadRequest
from shared.web.api.requests import SMALL, Parsing

LARGE = bytes(SMALL + 1)


def thread_of(body: bytes) -> int:
    return threading.get_ident()


async def test_a_small_body_is_read_at_once():
    assert await Parsing().of(thread_of, bytes(SMALL)) == threading.get_ident()


async def test_the_loop_goes_on_while_a_large_body_is_read():
    may_end = threading.Event()

    def read(body: bytes) -> bool:
        return may_end.wait(10)

    reading = asyncio.create_task(Parsing().of(read, LARGE))
    await asyncio.sleep(0.01)
    assert not reading.done()
    may_end.set()

    assert await reading is True


async def test_one_large_body_of_a_kind_is_read_at_a_time():
    under_way, most = 0, 0

    def read(body: bytes) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= 1

    parsing = Parsing()
    await asyncio.gather(*(parsing.of(read, LARGE) for _ in range(5)))

    assert most == 1


async def test_what_is_refused_in_the_thread_is_raised_and_lets_go_of_what_was_read():
    def read(body: bytes) -> None:
        found = list(body)
        raise BadRequest(f"no: {len(found)}")

    with pytest.raises(BadRequest) as caught:
        await Parsing().of(read, LARGE)

    [kept] = [entry.frame.f_locals for entry in caught.traceback if entry.name == "read"]
    assert kept == {}
