"""Batches gather what arrives together, and keep one request's trouble from its neighbours."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.concurrency.batching import BatchExecutor, verdicts
from shared.domain.errors import TooLarge


class Gate:
    """A handler that notes its batches and answers only when it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        await self.open.wait()
        return [item * 10 if item >= 0 else ValueError(str(item)) for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_each_item_gets_its_own_result() -> None:
    gate = Gate()
    gate.open.set()
    batches = BatchExecutor(gate)

    results = await asyncio.gather(*(batches.submit(n) for n in range(10)))

    assert results == [n * 10 for n in range(10)]
    assert gate.batches == [list(range(10))]


async def test_what_arrives_during_two_batches_goes_with_the_next_one() -> None:
    gate = Gate()
    batches = BatchExecutor(gate, in_flight=2)
    async with asyncio.TaskGroup() as tasks:
        for n in (1, 2):
            tasks.create_task(batches.submit(n))
            await settle()
        for n in (3, 4, 5):
            tasks.create_task(batches.submit(n))
            await settle()
        under_way = list(gate.batches)
        gate.open.set()

    assert under_way == [[1], [2]]
    assert gate.batches == [[1], [2], [3, 4, 5]]


async def test_a_batch_is_never_larger_than_its_limit() -> None:
    gate = Gate()
    gate.open.set()
    batches = BatchExecutor(gate, limit=4)

    await asyncio.gather(*(batches.submit(n) for n in range(10)))

    assert [len(batch) for batch in gate.batches] == [4, 4, 2]


async def test_items_of_one_key_never_share_a_batch_and_keep_their_order() -> None:
    gate = Gate()
    gate.open.set()
    batches = BatchExecutor(gate, in_flight=1)

    await asyncio.gather(
        batches.submit(1, key="a"),
        batches.submit(2, key="a"),
        batches.submit(3, key="b"),
        batches.submit(4, key="a"),
        batches.submit(5),
        batches.submit(6),
    )

    assert gate.batches == [[1, 3, 5, 6], [2], [4]]


async def test_one_failing_item_fails_only_itself() -> None:
    gate = Gate()
    gate.open.set()
    batches = BatchExecutor(gate)

    results = await asyncio.gather(*(batches.submit(n) for n in (1, -2, 3)), return_exceptions=True)

    assert results[0] == 10
    assert isinstance(results[1], ValueError)
    assert results[2] == 30


async def test_an_error_of_the_handler_fails_its_batch_and_not_the_next_one() -> None:
    calls = 0

    async def handler(items: list[int]) -> Sequence[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("store away")
        return items

    batches = BatchExecutor(handler)
    first = await asyncio.gather(batches.submit(1), batches.submit(2), return_exceptions=True)
    second = await batches.submit(3)

    assert [type(outcome) for outcome in first] == [OSError, OSError]
    assert second == 3


async def test_a_handler_that_returns_too_little_fails_its_batch() -> None:
    async def handler(items: list[int]) -> Sequence[int | Exception]:
        return items[:-1]

    batches = BatchExecutor(handler)

    with pytest.raises(RuntimeError, match="one outcome for each item"):
        await batches.submit(1)


async def test_a_cancelled_submitter_does_not_break_its_batch() -> None:
    gate = Gate()
    batches = BatchExecutor(gate)
    impatient = asyncio.ensure_future(batches.submit(1))
    patient = asyncio.ensure_future(batches.submit(2))
    await settle()

    impatient.cancel()
    await settle()
    gate.open.set()

    assert await patient == 20
    assert impatient.cancelled()
    assert gate.batches == [[1, 2]]


async def test_an_item_whose_submitter_gave_up_while_it_gathered_is_not_handled() -> None:
    gate = Gate()
    batches = BatchExecutor(gate, in_flight=1)
    first = asyncio.ensure_future(batches.submit(1))
    await settle()
    impatient = asyncio.ensure_future(batches.submit(2))
    patient = asyncio.ensure_future(batches.submit(3))
    await settle()

    impatient.cancel()
    await settle()
    gate.open.set()
    await asyncio.gather(first, patient)

    assert gate.batches == [[1], [3]]


async def test_drain_returns_when_all_that_was_gathered_is_done() -> None:
    gate = Gate()
    batches = BatchExecutor(gate, limit=1, in_flight=1)
    submitted = [asyncio.ensure_future(batches.submit(n)) for n in range(3)]
    await settle()

    draining = asyncio.ensure_future(batches.drain())
    await settle()
    waits = not draining.done()
    gate.open.set()
    await draining

    assert waits
    assert gate.batches == [[0], [1], [2]]
    assert [await outcome for outcome in submitted] == [0, 10, 20]


async def test_an_item_submitted_in_the_moment_a_worker_ends_is_handled() -> None:
    async def handler(items: list[int]) -> Sequence[int | Exception]:
        return items

    batches = BatchExecutor(handler, in_flight=1)

    async def one_after_the_other() -> int:
        return sum([await batches.submit(n) for n in range(100)])

    async with asyncio.timeout(5):
        sums = await asyncio.gather(*(one_after_the_other() for _ in range(3)))

    assert sums == [4950] * 3


@given(
    count=st.integers(0, 70),
    refused=st.sets(st.integers(0, 69), max_size=5),
)
def test_rule_02_each_item_of_a_bulk_that_is_refused_has_its_own_verdict(
    count: int, refused: set[int]
) -> None:
    written: set[int] = set()
    bulks = 0

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal bulks
        bulks += 1
        if not refused.isdisjoint(items):
            raise TooLarge("the document is too large for the store")
        written.update(items)
        return [item * 2 for item in items]

    outcomes = asyncio.run(verdicts(write, range(count)))

    bad = {number for number, each in enumerate(outcomes) if isinstance(each, TooLarge)}
    assert bad == {number for number in refused if number < count}
    assert written == set(range(count)) - bad
    assert all(each == 2 * n for n, each in enumerate(outcomes) if n not in bad)
    assert bulks <= 1 + 14 * len(bad)  # by halves, not one by one
