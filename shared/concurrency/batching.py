"""Batches: whole requests that arrived together go through all their steps together.

Promises: while `in_flight` batches are under way, arriving items gather and go with the next one, without a
timer and so without added latency at rest; a batch has at most `limit` items and at most one of each key;
each item gets its own result or error; a submitter that gives up does not disturb its neighbours; an error of
the handler itself reaches every item of that batch and no other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.domain.errors import Refused

Item = TypeVar("Item")
Result = TypeVar("Result")

Handler = Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]
"""Takes the items of a batch; returns per item, in their order, its result or its error."""


async def verdicts(
    write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], items: Sequence[Item]
) -> list[Result | Refused]:
    """The outcome of each item of a bulk write, in their order.

    The store refuses a bulk for one item that it cannot hold. Then the bulk is repeated by halves, until that
    item is alone and the only one that is refused; `write` must be safe to repeat."""
    try:
        return list(await write(items))
    except Refused as exc:
        if len(items) == 1:
            return [exc]
    middle = len(items) // 2
    return [*await verdicts(write, items[:middle]), *await verdicts(write, items[middle:])]


async def refused(
    write: Callable[[Sequence[Item]], Awaitable[None]], items: Sequence[Item]
) -> list[tuple[Item, Refused]]:
    """Write items, and return those that the store refuses, with the reasons; as in `verdicts`."""

    async def written(some: Sequence[Item]) -> list[None]:
        await write(some)
        return [None] * len(some)

    outcomes = await verdicts(written, items)
    pairs = zip(items, outcomes, strict=True)
    return [(item, each) for item, each in pairs if isinstance(each, Refused)]


@dataclass(slots=True, eq=False)
class _Submitted(Generic[Item, Result]):
    item: Item
    key: Hashable | None
    outcome: "asyncio.Future[Result]"


class BatchExecutor(Generic[Item, Result]):
    """Gathers items into batches and hands each batch to `handler`."""

    def __init__(self, handler: Handler[Item, Result], limit: int = 64, in_flight: int = 2) -> None:
        self._handler = handler
        self._limit = limit
        self._in_flight = in_flight
        self._gathered: list[_Submitted[Item, Result]] = []
        self._busy = 0
        # A batch outlives each single submitter, so no submitter's TaskGroup can hold it; this set
        # does, and `drain` waits for it.
        self._workers: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item, key: Hashable | None = None) -> Result:
        """The handler's result for `item`; raises the error that it gave for it."""
        return await self.enqueue(item, key)

    def enqueue(self, item: Item, key: Hashable | None = None) -> "asyncio.Future[Result]":
        """The same for a caller that does not wait itself.

        Items of the same key never share a batch and are taken in the order of their submission.
        A submitter that cancels it before its batch begins takes its item back; after that, the item
        goes on without it."""
        loop = asyncio.get_running_loop()
        submitted = _Submitted[Item, Result](item, key, loop.create_future())
        self._gathered.append(submitted)
        if self._busy < self._in_flight:
            self._busy += 1
            # An empty context: what one request bound for its log lines is not its neighbours'.
            worker = loop.create_task(self._work(), context=Context())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return submitted.outcome

    async def drain(self) -> None:
        """Wait until nothing is gathered and nothing is under way."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        try:
            while batch := self._take():
                await self._handle(batch)
        finally:
            # In the same step in which nothing was found: the next submitter starts a worker.
            self._busy -= 1

    def _take(self) -> list[_Submitted[Item, Result]]:
        batch: list[_Submitted[Item, Result]] = []
        rest: list[_Submitted[Item, Result]] = []
        keys: set[Hashable] = set()
        for submitted in self._gathered:
            if submitted.outcome.done():
                continue
            if len(batch) >= self._limit or submitted.key in keys:
                rest.append(submitted)
                continue
            if submitted.key is not None:
                keys.add(submitted.key)
            batch.append(submitted)
        self._gathered = rest
        return batch

    async def _handle(self, batch: list[_Submitted[Item, Result]]) -> None:
        outcomes: Sequence[Result | Exception]
        try:
            outcomes = await self._handler([submitted.item for submitted in batch])
            if len(outcomes) != len(batch):
                raise RuntimeError("a batch's handler must return one outcome for each item")
        except asyncio.CancelledError:
            for submitted in batch:
                submitted.outcome.cancel()
            raise
        except Exception as exc:  # noqa: BLE001 - every submitter of the batch raises it
            outcomes = [exc] * len(batch)
        for submitted, outcome in zip(batch, outcomes, strict=True):
            if submitted.outcome.done():
                continue
            if isinstance(outcome, Exception):
                submitted.outcome.set_exception(outcome)
            else:
                submitted.outcome.set_result(outcome)
