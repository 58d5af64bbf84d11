"""The arithmetic of SCEP is off the loop, a few at a time, and nobody waits in an endless queue."""

import asyncio
import threading

import pytest

from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import BadRequest, Unavailable


async def test_work_is_done_in_another_thread() -> None:
    assert await HeavyWork("SCEP requests").do(threading.get_ident) != threading.get_ident()


async def test_what_work_raises_is_raised() -> None:
    def fail() -> None:
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        await HeavyWork("SCEP requests").do(fail)


async def test_what_failed_work_had_built_is_freed_by_its_thread() -> None:
    freed_by: list[int] = []

    class Large:
        def __del__(self) -> None:
            freed_by.append(threading.get_ident())

    def fail() -> None:
        built = Large()
        try:
            raise ValueError(repr(built))
        except ValueError as exc:
            raise BadRequest("no") from exc

    with pytest.raises(BadRequest):
        await HeavyWork("messages").do(fail)

    assert freed_by and freed_by != [threading.get_ident()]


async def test_no_more_than_so_many_are_done_at_once_and_all_are_done() -> None:
    work = HeavyWork("SCEP requests", threads=2)
    at_work, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def count() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        both.wait(timeout=10)  # two are really at work at once
        with lock:
            at_work -= 1

    await asyncio.gather(*(work.do(count) for _ in range(8)))

    assert (most, at_work) == (2, 0)


async def test_who_comes_when_too_many_wait_hears_so_and_later_ones_are_served() -> None:
    work = HeavyWork("SCEP requests", threads=1, most_waiting=2)
    go_on = threading.Event()
    waiting = [asyncio.create_task(work.do(go_on.wait, 10)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Unavailable):
        await work.do(int)

    go_on.set()
    assert await asyncio.gather(*waiting) == [True, True]
    assert await work.do(int) == 0
