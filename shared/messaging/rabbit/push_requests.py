"""Push requests on RabbitMQ.

Promises: a push request costs its caller nothing and never fails; push requests that wait are collapsed and
go out in few messages, and wait again when the broker did not take them; a consumed push request comes
again until
`on_requests` has returned for it, and an outage of the store uses up none of its deliveries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from itertools import count, islice
from typing import Any

import orjson
import structlog
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from shared.domain.errors import BrokerUnavailable, Unavailable
from shared.messaging.frames import Message
from shared.messaging.rabbit.connection import Link, translated
from shared.messaging.rabbit.consume import (
    Acks,
    DeadLetters,
    Redeclare,
    close_channel,
    delivery_tag,
    opened_channel,
)
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.topology import PUSH_QUEUE
from shared.ports.clock import Clock

log = structlog.get_logger()

LIMIT = 100_000
"""Push requests that may wait in memory; the sweep finds those beyond (docs/rules.md, rule 12)."""
PER_MESSAGE = 500
PREFETCH = 16
AGAIN = timedelta(seconds=1)

_numbers = count()


def push_request_message(enrollments: Sequence[str]) -> Message:
    body = orjson.dumps({"enrollments": list(enrollments)})
    return Message("", PUSH_QUEUE, f"wish-{next(_numbers)}", {}, body)


def read_push_request(body: bytes) -> list[str] | None:
    """The enrollment ids of a message, None if it is not one of ours."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    names = document.get("enrollments") if isinstance(document, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


class RabbitPushRequests:
    """The port PushRequests: collects in memory; `run` sends, until cancelled."""

    def __init__(self, publishing: PublishChannel, clock: Clock, limit: int = LIMIT) -> None:
        self._publishing = publishing
        self._clock = clock
        self._limit = limit
        self._waiting: dict[str, None] = {}
        self._some = asyncio.Event()
        self._is_overflowing = False

    def add(self, enrollments: Collection[str]) -> None:
        room = self._limit - len(self._waiting)
        if len(enrollments) > room and not self._is_overflowing:
            log.warning("wishes_dropped", waiting=len(self._waiting))
        self._is_overflowing = len(enrollments) > room
        self._waiting.update(dict.fromkeys(islice(enrollments, max(room, 0))))
        self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            if not await self.flush():
                await self._clock.sleep(AGAIN)

    async def flush(self) -> bool:
        """Send what waits; False when the broker did not take all of it."""
        while self._waiting:
            chosen = list(islice(self._waiting, PER_MESSAGE))
            for name in chosen:
                del self._waiting[name]
            taken = False
            try:
                taken = (await self._publishing.send([push_request_message(chosen)]))[0]
            finally:
                if not taken:
                    self._waiting.update(dict.fromkeys(chosen))
            if not taken:
                return False
        self._some.clear()
        return True


class RabbitPushRequestConsumer:
    """The port PushRequestConsumer."""

    def __init__(
        self, link: Link, dead_letters: DeadLetters, clock: Clock, redeclare: Redeclare
    ) -> None:
        self._link = link
        self._redeclare = redeclare
        self._dead_letters = dead_letters
        self._clock = clock

    async def consume(self, on_requests: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        while True:
            try:
                await self._consume_channel(on_requests)
            except BrokerUnavailable:
                await self._clock.sleep(AGAIN)

    async def _consume_channel(
        self, on_requests: Callable[[Sequence[str]], Awaitable[None]]
    ) -> None:
        """Consume until the channel breaks; raises BrokerUnavailable then."""
        messages: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        async with opened_channel(self._link, PREFETCH, self._redeclare) as channel:
            await channel.basic_consume(PUSH_QUEUE, messages.put)
        broken = channel.closing
        acks = Acks(channel)
        try:
            while True:
                batch = await _next(messages, broken)
                await self._handle(batch, on_requests, channel, acks)
        finally:
            acks.end()
            await close_channel(channel, self._link)

    async def _handle(
        self,
        batch: Sequence[DeliveredMessage],
        on_requests: Callable[[Sequence[str]], Awaitable[None]],
        channel: Channel,
        acks: Acks,
    ) -> None:
        push_requests: dict[str, None] = {}
        good = []
        for message in batch:
            names = read_push_request(message.body)
            if names is None:
                await self._dead_letters.put(message, PUSH_QUEUE, "not a wish")
                acks.add(delivery_tag(message))
            else:
                push_requests.update(dict.fromkeys(names))
                good.append(delivery_tag(message))
        try:
            if push_requests:
                await self._grant(list(push_requests), on_requests, channel)
        except Exception:
            log.exception("wishes_failed", wishes=len(push_requests))
            await self._clock.sleep(AGAIN)
            with translated():
                for tag in good:
                    await channel.basic_nack(tag, requeue=True, wait=False)
        else:
            for tag in good:
                acks.add(tag)

    async def _grant(
        self,
        push_requests: Sequence[str],
        on_requests: Callable[[Sequence[str]], Awaitable[None]],
        channel: Channel,
    ) -> None:
        """Hand push requests over, as soon as the store is there; they stay unacked meanwhile, because
        whatever is given back counts as a delivery, and too many of those dead-letter it. A channel that is
        closed has given them to somebody else."""
        is_waiting = False
        while not channel.is_closed:
            try:
                return await on_requests(push_requests)
            except Unavailable as exc:
                if not is_waiting:
                    log.warning("wishes_wait", wishes=len(push_requests), reason=str(exc))
                is_waiting = True
            await self._clock.sleep(AGAIN)


async def _next(
    messages: "asyncio.Queue[DeliveredMessage]", broken: "asyncio.Future[None]"
) -> list[DeliveredMessage]:
    """All messages that are there, at least one; raises when the channel breaks first."""
    if messages.empty():
        getting = asyncio.ensure_future(messages.get())
        either: set[asyncio.Future[Any]] = {getting, broken}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if not getting.done() or getting.cancelled():
            raise BrokerUnavailable("RabbitMQ: channel lost")
        batch = [getting.result()]
    else:
        batch = []
    while not messages.empty():
        batch.append(messages.get_nowait())
    return batch
