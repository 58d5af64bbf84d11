"""Takes push requests from the broker and gives them to the pusher.

Promises: a push request is acked only after its push ended in a state that is stored, or, where APNs is slow
with it, after it was left to the sweep; so a slow push holds up no other push request for long.
Once it drains, nothing new is begun and what is under way gets its time to end.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

import structlog

from services.push.send.pusher import Pusher
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.ports.pushes import PushRequestConsumer

log = structlog.get_logger()

GRACE = timedelta(milliseconds=2500)
PATIENCE = timedelta(milliseconds=1500)
"""A push request waits so long for its push before it is left to the sweep; longer than the quiet second."""

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=1))
MOST_UNDER_WAY = 2000
"""Enrollments in work beyond which no more push requests are taken from the broker."""


class Intake:
    """`can_push`: False while there is no push certificate; then push requests are left to the sweep."""

    def __init__(
        self,
        consumer: PushRequestConsumer,
        pusher: Pusher,
        clock: Clock,
        can_push: Callable[[], bool] = lambda: True,
    ) -> None:
        self._consumer = consumer
        self._pusher = pusher
        self._clock = clock
        self._can_push = can_push
        self._is_stopping = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, loops: Loops) -> None:
        async with asyncio.TaskGroup() as group:
            consume = partial(self._consumer.consume, partial(self._take, group))
            await loops.until_done("intake", consume, PACE, "wishes_wait", may_wait=True)

    async def drain(self, grace: timedelta = GRACE) -> None:
        self._is_stopping = True
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self._idle.wait()
        except TimeoutError:
            log.warning("pushes_cut_short", under_way=self._under_way)

    async def _take(self, group: asyncio.TaskGroup, enrollments: Sequence[str]) -> None:
        if self._is_stopping:
            # Not acked: when we are gone, the broker gives it to another process.
            await asyncio.Event().wait()
        if not self._can_push():
            return
        pushing = group.create_task(self._push(enrollments))
        patience = group.create_task(self._clock.sleep(PATIENCE))
        try:
            await asyncio.wait({pushing, patience}, return_when=asyncio.FIRST_COMPLETED)
            if not pushing.done() and self._under_way <= MOST_UNDER_WAY:
                await self._pusher.leave_to_sweep(enrollments)
                return
        finally:
            patience.cancel()
        error = await pushing
        if error is not None:
            raise error

    async def _push(self, enrollments: Sequence[str]) -> Exception | None:
        """Return the error: the one who waits may have left the push to the sweep."""
        self._under_way += len(enrollments)
        self._idle.clear()
        try:
            await self._pusher.push_requests(enrollments)
        except Unavailable as exc:
            log.info("push_not_recorded", error=str(exc))
            return exc
        except Exception as exc:  # noqa: BLE001 - around a message handler: the consumer logs and decides
            return exc
        finally:
            self._under_way -= len(enrollments)
            if not self._under_way:
                self._idle.set()
        return None
