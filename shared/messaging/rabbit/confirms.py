"""Messages written to channels of one connection, and the broker's confirms of them.

Promises: messages of a batch are handed to the connection in one piece, whatever their channels; each is
taken, returned or unanswered; a channel that is given up ends the waiting for its messages and for no
others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import structlog
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import PublishError
from pamqp.commands import Channel as ChannelMethods

from shared.domain.errors import Misconfigured
from shared.messaging.frames import Message, publish_frames
from shared.messaging.rabbit.breaker import Breaker

log = structlog.get_logger()

Confirmed = Callable[[int], None]
"""Called with a message's index, once, when the broker took it."""


AT_ONCE = 100
"""Messages of a batch for one queue that are written before the first of them are confirmed."""
MOST_UNDER_WAY = 300
"""Messages without an answer on one channel. The broker stops reading the whole connection when some 400
wait for a channel that is stuck."""


def ignore(_index: int) -> None:
    return None


def check_library(channel: object) -> None:
    """Misconfigured where the AMQP library lacks what `write` uses of it, which is no interface."""
    for name in ("confirmations", "message_id_delivery_tag", "delivery_tag", "write_queue"):
        if not hasattr(channel, name):
            raise Misconfigured(
                f"the installed aiormq has no Channel.{name}: install the version in pyproject.toml"
            )


class QueueChannel:
    """The channel on which messages for one queue are published, once it is open; and its breaker."""

    def __init__(self, name: str, breaker: Breaker, channel: Channel | None = None) -> None:
        self.name = name
        self.breaker = breaker
        self.channel = channel
        self.opening = asyncio.Lock()
        self.refusal: str | None = None
        """Why the broker closed the last channel by itself."""
        self.at_last_refusal: frozenset[str] = frozenset()
        """The ids of the messages that were under way then."""

    def answered_on(self, channel: Channel) -> None:
        if self.channel is channel and self.breaker.is_open:
            self.breaker.close()
            log.info("publishing_answers_again", queue=self.name)


class Batch:
    """Messages whose confirms are waited for together. `taken` and `returned` are by index."""

    def __init__(self, messages: Sequence[Message], on_confirm: Confirmed = ignore) -> None:
        self.messages = messages
        self.taken = [False] * len(messages)
        self.returned: list[int] = []
        self.settled = asyncio.get_running_loop().create_future()
        self.asked_at: float | None = None
        """When the broker as a whole was asked for a sign of life on behalf of this batch."""
        self._on_confirm = on_confirm
        self._open: dict[Channel, int] = {}

    @property
    def is_answered(self) -> bool:
        return any(self.taken) or bool(self.returned)

    def waits_for(self, channel: Channel) -> bool:
        return channel in self._open

    def expect(self, counts: Mapping[Channel, int]) -> None:
        """Wait for so many answers from now on."""
        self._open = {channel: count for channel, count in counts.items() if count}
        self.settled = asyncio.get_running_loop().create_future()
        self._settle_if_done()

    def answer(self, channel: Channel, index: int, error: BaseException | None) -> None:
        if channel not in self._open:  # too late: nobody counts on it any more
            return
        if isinstance(error, PublishError):
            self.returned.append(index)
        elif error is None:
            self.taken[index] = True
            self._on_confirm(index)
        self._open[channel] -= 1
        if not self._open[channel]:
            self.give_up(channel)

    def give_up(self, channel: Channel) -> None:
        """Expect nothing more of this channel."""
        self._open.pop(channel, None)
        self._settle_if_done()

    def give_up_all(self) -> None:
        self._open = {}
        self._settle_if_done()

    def forget(self) -> None:
        """Report no confirm from now on: its caller has been told that nothing was taken."""
        self._on_confirm = ignore

    def _settle_if_done(self) -> None:
        if not self._open and not self.settled.done():
            self.settled.set_result(None)


async def write(batch: Batch, shares: Mapping[QueueChannel, Sequence[int]]) -> None:
    """As `put`, once the connection has room."""
    ways = [queue.channel for queue in shares if queue.channel is not None]
    while ways and ways[0].write_queue.full():
        await ways[0].write_queue.join()
    put(batch, shares)


def put(batch: Batch, shares: Mapping[QueueChannel, Sequence[int]]) -> None:
    """Hand messages to the connection in one piece, each for the channel of its queue; `batch` expects
    the answers. A queue without an open channel, or without room, gets nothing. Raises QueueFull.

    The library's own publish costs three times as much, in tasks and locks (docs/adr/0010). No await in
    here: delivery tags must be counted in the order of the bytes."""
    counts: dict[Channel, int] = {}
    frames: list[bytes] = []
    for queue, indexes in shares.items():
        channel = queue.channel
        if channel is not None and not channel.is_closed:
            room = MOST_UNDER_WAY - len(channel.confirmations)
            unique = _not_under_way(batch, channel, indexes)[: max(room, 0)]
            counts[channel] = len(unique)
            frames += [_frames(batch, queue, channel, index) for index in unique]
    batch.expect(counts)
    if frames:
        write_queue = next(iter(counts)).write_queue
        write_queue.put_nowait(ChannelFrame(payload=b"".join(frames), should_close=False))


def _not_under_way(batch: Batch, channel: Channel, indexes: Sequence[int]) -> list[int]:
    """The broker names a message that it returns by its id alone, so no id may be under way twice."""
    first = {batch.messages[index].message_id: index for index in reversed(indexes)}
    return sorted(
        index for name, index in first.items() if name not in channel.message_id_delivery_tag
    )


def _frames(batch: Batch, queue: QueueChannel, channel: Channel, index: int) -> bytes:
    """The bytes of a message, whose confirm the channel knows from here on."""
    message = batch.messages[index]
    channel.delivery_tag += 1
    confirmation = channel.loop.create_future()
    channel.confirmations[channel.delivery_tag] = confirmation
    channel.message_id_delivery_tag[message.message_id] = channel.delivery_tag
    confirmation.add_done_callback(partial(_answered, batch, queue, channel, index))
    frame_max = channel.connection.connection_tune.frame_max or 131_072
    return publish_frames(channel.number, message, frame_max)


def _answered(
    batch: Batch,
    queue: QueueChannel,
    channel: Channel,
    index: int,
    confirmation: "asyncio.Future[object]",
) -> None:
    channel.message_id_delivery_tag.pop(batch.messages[index].message_id, None)
    if not confirmation.cancelled():
        batch.answer(channel, index, confirmation.exception())
        queue.answered_on(channel)


def abandon(channel: Channel) -> None:
    """Ask the broker to close a channel and wait for nothing.

    The library's own `close` asks again when there is no answer, and a broker that has closed the channel
    meanwhile ends the whole connection for that."""
    channel.confirmations.clear()  # with the messages that they hold; it may be long in closing
    if channel.is_closed:
        return
    close = ChannelMethods.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
    frame = ChannelFrame.marshall(channel_number=channel.number, frames=[close])
    with suppress(asyncio.QueueFull):  # then it stays open, and unused
        channel.write_queue.put_nowait(frame)
