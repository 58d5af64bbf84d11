"""Takes wishes from the broker and gives them to the pusher.

Promises: a wish is acked only after its push ended in a state that is stored; once it drains, nothing
new is begun and what is under way gets its time to end.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from services.push.pusher import Pusher
from shared.ports import WishConsumer

log = structlog.get_logger()

GRACE = timedelta(seconds=10)


class Intake:
    """`pusher` is None while there is no push certificate: then wishes are left to the sweep."""

    def __init__(self, consumer: WishConsumer, pusher: Pusher | None) -> None:
        self._consumer = consumer
        self._pusher = pusher
        self._is_stopping = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        await self._consumer.consume(self._take)

    async def drain(self, grace: timedelta = GRACE) -> None:
        self._is_stopping = True
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._idle.wait()
        except TimeoutError:
            log.warning("pushes_cut_short", under_way=self._under_way)

    async def _take(self, enrollments: Sequence[str]) -> None:
        if self._is_stopping:
            # Not acked: when we are gone, the broker gives it to somebody else.
            await asyncio.Event().wait()
        if self._pusher is None:
            return
        self._under_way += 1
        self._idle.clear()
        try:
            await self._pusher.wishes(enrollments)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
