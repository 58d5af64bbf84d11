"""Channels of aiormq on which many messages, or acks, are written at once (docs/adr/0010).

Promises: no other file uses what is no interface of aiormq. Messages of one call are handed to the connection
in one piece, also for several channels, and counted in the order of their bytes. Each has one answer: the
broker's, or the cancellation by `forget`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import count

from aiormq.abc import AbstractConnection, ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from pamqp.base import Frame
from pamqp.commands import Basic
from pamqp.commands import Channel as ChannelMethods

from shared.domain.errors import BrokerUnavailable, Misconfigured
from shared.messaging.frames import Message, publish_frames

MOST_UNDER_WAY = 300
"""Messages without an answer on one channel. The broker stops reading the whole connection when some 400
wait for a channel that is stuck."""
_FULL_PAUSE = timedelta(milliseconds=5)

Answered = Callable[["FastChannel", int, "asyncio.Future[object]"], None]
"""Called with a message's channel, its index and its answer."""


def check_library(channel: object) -> None:
    """Raises Misconfigured where the AMQP library lacks what we use of it."""
    for name in ("confirmations", "message_id_delivery_tag", "delivery_tag", "write_queue"):
        if not hasattr(channel, name):
            raise Misconfigured(
                f"the installed aiormq has no Channel.{name}: install the version in pyproject.toml"
            )


class FastChannel:
    """A channel on which an unroutable message is an error. `channel` has all methods of the library's
    interface."""

    def __init__(self, channel: Channel) -> None:
        check_library(channel)
        self.channel = channel
        self.on_answer: Callable[[], None] = lambda: None
        """Called whenever the broker has answered a message."""
        self._acks: list[Frame] = []
        self._acks_end = False

    @classmethod
    async def open(cls, connection: AbstractConnection, *, confirms: bool) -> "FastChannel":
        """Raises what the library raises; no timeout of its own.

        It takes the lowest free number: the library's own choice only grows, past what the broker allows,
        beside a channel that is long in closing."""
        free = next(number for number in count(1) if number not in connection.channels)
        channel = await connection.channel(free, publisher_confirms=confirms, on_return_raises=True)
        if not isinstance(channel, Channel):
            raise TypeError("the AMQP library gave an unknown kind of channel")
        return cls(channel)

    @property
    def under_way(self) -> frozenset[str]:
        """The ids of the messages without an answer."""
        return frozenset(self.channel.message_id_delivery_tag)

    async def room(self) -> None:
        """Wait until the connection takes something to write."""
        while self.channel.write_queue.full():
            await self.channel.write_queue.join()

    def ack(self, message: DeliveredMessage) -> None:
        """Write an ack with all others of this turn of the event loop: one by one they cost 20 us of CPU
        more each."""
        if self._acks_end:
            return
        if not self._acks:
            asyncio.get_running_loop().call_soon(self._write_acks)
        self._acks.append(Basic.Ack(delivery_tag=message.delivery_tag or 0))

    def _write_acks(self) -> None:
        if not self._acks or self._acks_end or self.channel.is_closed:
            return
        if self._write(self._acks):
            self._acks.clear()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(_FULL_PAUSE.total_seconds(), self._write_acks)

    async def close(self) -> None:
        """Write the acks that wait and then no more: a frame behind the close of its channel makes the broker
        end the whole connection. Raises what the library raises; no timeout of its own."""
        self._write_acks()
        self._acks_end = True
        await self.channel.close(BrokerUnavailable("RabbitMQ: channel closed"))

    def forget(self) -> None:
        """Cancel the answers that are missing, and let go of their messages."""
        for answer in self.channel.confirmations.values():
            answer.cancel()
        self.channel.confirmations.clear()

    def abandon(self) -> None:
        """Ask the broker to close the channel, and wait for nothing; it may be long in closing.

        The library's own `close` asks again when there is no answer, and a broker that has closed the channel
        meanwhile ends the whole connection for that."""
        self.forget()
        if not self.channel.is_closed:  # without room to write it stays open, and unused
            self._write(
                [ChannelMethods.Close(reply_code=200, reply_text="", class_id=0, method_id=0)]
            )

    def _write(self, frames: Sequence[Frame]) -> bool:
        """False where the connection has no room."""
        frame = ChannelFrame.marshall(channel_number=self.channel.number, frames=frames)
        try:
            self.channel.write_queue.put_nowait(frame)
        except asyncio.QueueFull:
            return False
        return True

    def select(self, messages: Sequence[Message], indexes: Sequence[int]) -> list[int]:
        """The indexes of the messages that may be written now. The broker names a message that it returns by
        its id alone, so no id may be under way twice."""
        channel = self.channel
        if channel.is_closed:
            return []
        first = {messages[index].message_id: index for index in reversed(indexes)}
        under_way = channel.message_id_delivery_tag
        fresh = sorted([index for name, index in first.items() if name not in under_way])
        room = MOST_UNDER_WAY - len(channel.confirmations)
        return fresh if len(fresh) <= room else fresh[: max(room, 0)]

    def expect(self, index: int, message: Message, answered: Answered) -> bytes:
        """The bytes of a message, whose answer the channel knows from here on."""
        channel = self.channel
        channel.delivery_tag += 1
        answer = channel.loop.create_future()
        channel.confirmations[channel.delivery_tag] = answer
        channel.message_id_delivery_tag[message.message_id] = channel.delivery_tag
        answer.add_done_callback(partial(self._answered, message.message_id, index, answered))
        frame_max = channel.connection.connection_tune.frame_max or 131_072
        return publish_frames(channel.number, message, frame_max)

    def _answered(
        self, message_id: str, index: int, answered: Answered, answer: "asyncio.Future[object]"
    ) -> None:
        self.channel.message_id_delivery_tag.pop(message_id, None)
        answered(self, index, answer)
        if not answer.cancelled():
            self.on_answer()


def publish(
    messages: Sequence[Message], shares: Mapping[FastChannel, Sequence[int]], answered: Answered
) -> dict[FastChannel, int]:
    """Write messages in one piece, each on the channel whose share has its index, and say how many each
    channel will answer. A closed channel gets nothing, nor does a connection without room.

    The library's own publish costs three times as much, in tasks and locks. No await in here: messages must
    be counted in the order of the bytes."""
    counts: dict[FastChannel, int] = {}
    frames: list[bytes] = []
    write_queue = next((channel.channel.write_queue for channel in shares), None)
    if write_queue is None or write_queue.full():
        return counts
    for channel, indexes in shares.items():
        chosen = channel.select(messages, indexes)
        counts[channel] = len(chosen)
        frames += [channel.expect(index, messages[index], answered) for index in chosen]
    if frames:
        write_queue.put_nowait(ChannelFrame(payload=b"".join(frames), should_close=False))
    return counts
