"""Push requests on RabbitMQ: many in one message.

Promise: a consumed push request comes again until `on_requests` has returned for it, and an outage of the
store uses up none of its deliveries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from itertools import count

import orjson
import structlog

from shared.domain.errors import BrokerUnavailable, Unavailable
from shared.messaging.frame_filter import ReceivedMessage
from shared.messaging.frames import Message
from shared.messaging.push_requests import AGAIN, LIMIT, WaitingRequests
from shared.messaging.rabbit.connection import Link, translated
from shared.messaging.rabbit.consume import (
    DeadLetters,
    Redeclare,
    close_channel,
    opened_channel,
)
from shared.messaging.rabbit.fast_channel import FastChannel
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.topology import PUSH_QUEUE
from shared.ports.clock import Clock

log = structlog.get_logger()

PREFETCH = 16

_numbers = count()


def push_request_message(enrollments: Sequence[str]) -> Message:
    body = orjson.dumps({"enrollments": list(enrollments)})
    return Message("", PUSH_QUEUE, f"wish-{next(_numbers)}", {}, body)


def read_push_request(body: bytes) -> list[str] | None:
    """The enrollment ids of a message, None if it is not one of ours."""
    try:
        names = orjson.loads(body)["enrollments"]
    except (ValueError, KeyError, TypeError):
        return None
    is_ours = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_ours else None


class RabbitPushRequests(WaitingRequests):
    """The port PushRequests."""

    def __init__(self, publishing: PublishChannel, clock: Clock) -> None:
        super().__init__(clock)
        self._publishing = publishing
        self._is_overflowing = False

    def add(self, enrollments: Collection[str]) -> None:
        overflows = len(enrollments) > LIMIT - len(self._waiting)
        if overflows and not self._is_overflowing:
            log.warning("wishes_dropped", waiting=len(self._waiting))
        self._is_overflowing = overflows
        super().add(enrollments)

    async def send(self, enrollments: Sequence[str]) -> bool:
        return (await self._publishing.send([push_request_message(enrollments)]))[0]


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
            with suppress(BrokerUnavailable):
                await self._consume_channel(on_requests)
            await self._clock.sleep(AGAIN)

    async def _consume_channel(
        self, on_requests: Callable[[Sequence[str]], Awaitable[None]]
    ) -> None:
        """Consume until the channel breaks."""
        messages: asyncio.Queue[ReceivedMessage | None] = asyncio.Queue()
        async with opened_channel(self._link, PREFETCH, self._redeclare) as channel:
            await channel.consume(PUSH_QUEUE, messages.put_nowait)
        channel.channel.closing.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while not channel.channel.is_closed:
                found = [await messages.get()]
                found += [messages.get_nowait() for _ in range(messages.qsize())]
                batch = [message for message in found if message is not None]
                await self._handle(batch, on_requests, channel)
        finally:
            await close_channel(channel, self._link)

    async def _handle(
        self,
        batch: Sequence[ReceivedMessage],
        on_requests: Callable[[Sequence[str]], Awaitable[None]],
        channel: FastChannel,
    ) -> None:
        push_requests: dict[str, None] = {}
        good = []
        for message in batch:
            names = read_push_request(message.body)
            if names is None:
                await self._dead_letters.put(message, PUSH_QUEUE, "not a wish")
                channel.ack(message)
            else:
                push_requests.update(dict.fromkeys(names))
                good.append(message)
        try:
            if push_requests:
                await self._grant(list(push_requests), on_requests, channel)
        except Exception:
            log.exception("wishes_failed", wishes=len(push_requests))
            await self._clock.sleep(AGAIN)
            with translated():
                for message in good:
                    await channel.channel.basic_nack(message.tag, wait=False)
        else:
            for message in good:
                channel.ack(message)

    async def _grant(
        self,
        push_requests: Sequence[str],
        on_requests: Callable[[Sequence[str]], Awaitable[None]],
        channel: FastChannel,
    ) -> None:
        """Hand push requests over, as soon as the store is there; they stay unacked meanwhile, because
        each message that is given back counts as a delivery, and too many of those dead-letter it. A closed
        channel has given them to another consumer."""
        is_waiting = False
        while not channel.channel.is_closed:
            try:
                return await on_requests(push_requests)
            except Unavailable as exc:
                if not is_waiting:
                    log.warning("wishes_wait", wishes=len(push_requests), reason=str(exc))
                is_waiting = True
            await self._clock.sleep(AGAIN)
