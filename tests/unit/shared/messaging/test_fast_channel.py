"""Messages and acks written at once, and their answers, on channels of a connection that was never made."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiormq.channel import Channel
from pamqp import commands, frame

from shared.messaging.frame_filter import FrameFilter, ReceivedMessage
from shared.messaging.frames import Message
from shared.messaging.rabbit.confirms import Batch
from shared.messaging.rabbit.connection import FilteredConnection
from shared.messaging.rabbit.fast_channel import MOST_UNDER_WAY, FastChannel, publish
from tests.unit.shared.messaging.test_amqp_frames import by_the_library

Channels = tuple[FastChannel, FastChannel]


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_gone


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
async def connection(transport: Transport) -> FilteredConnection:
    made = FilteredConnection("amqp://localhost")
    made.server_properties = {"capabilities": {"publisher_confirms": True}}
    made.connection_tune = commands.Connection.Tune(frame_max=131_072)
    made.transport = transport
    made.frames = FrameFilter(asyncio.Protocol())
    return made


@pytest.fixture
async def channels(connection: FilteredConnection) -> AsyncIterator[Channels]:
    first = FastChannel(Channel(connection, 1), connection)
    second = FastChannel(Channel(connection, 2), connection)
    yield first, second
    for each in (first, second):
        await each.close()


def message(name: str) -> Message:
    return Message("mdm.events", f"mdm.Connect.{name}", name, {"device": name}, b"{}")


def acked(channel: FastChannel, tag: int) -> None:
    channel.on_confirm(tag, multiple=False, taken=True)


async def test_messages_for_several_channels_are_one_write_of_the_librarys_bytes(
    channels: Channels, transport: Transport
) -> None:
    first, second = channels
    messages = [message(name) for name in "abc"]

    Batch(messages).write({first: [0, 2], second: [1]})

    frames = [(1, messages[0]), (1, messages[2]), (2, messages[1])]
    expected = [by_the_library(number, each, 131_064) for number, each in frames]
    assert transport.writes == [b"".join(expected)]


async def test_a_batch_is_settled_when_each_channel_has_answered(channels: Channels) -> None:
    first, second = channels
    batch = Batch([message(name) for name in "abc"])
    batch.write({first: [0, 2], second: [1]})

    acked(first, 1)
    acked(first, 2)
    waits = (batch.waits_for(first), batch.waits_for(second), batch.settled.done())
    acked(second, 1)

    assert waits == (False, True, False)
    assert batch.settled.done() and batch.taken == [True] * 3
    assert not first.under_way


async def test_one_answer_for_several_messages_is_for_those_up_to_it_only(
    channels: Channels,
) -> None:
    batch = Batch([message(name) for name in "abc"])
    batch.write({channels[0]: [0, 1, 2]})

    channels[0].on_confirm(2, multiple=True, taken=True)

    assert batch.taken == [True, True, False]
    assert channels[0].under_way == {"c"}


async def test_a_refused_message_is_answered_and_not_taken(channels: Channels) -> None:
    batch = Batch([message("a")])
    batch.write({channels[0]: [0]})

    channels[0].on_confirm(1, multiple=False, taken=False)

    assert batch.settled.done()
    assert (batch.taken, batch.returned) == ([False], [])


async def test_a_returned_message_is_not_taken_though_its_confirm_follows(
    channels: Channels,
) -> None:
    first = channels[0]
    batch = Batch([message("a")])
    batch.write({first: [0]})

    first.on_return("a")
    first.on_return("a stranger's")
    first.on_return(None)
    acked(first, 1)

    assert batch.settled.done()
    assert (batch.taken, batch.returned) == ([False], [0])


async def test_a_returned_message_may_be_published_again_before_its_confirm(
    channels: Channels,
) -> None:
    first = channels[0]
    batch = Batch([message("a")])
    batch.write({first: [0]})
    first.on_return("a")
    batch.write({first: [0]})

    acked(first, 1)
    waits = batch.waits_for(first)
    acked(first, 2)

    assert waits
    assert batch.taken == [True]


async def test_a_channel_that_is_given_up_ends_the_waiting_for_its_messages_only(
    channels: Channels,
) -> None:
    first, second = channels
    batch = Batch([message(name) for name in "ab"])
    batch.write({first: [0], second: [1]})

    first.forget()
    waits = batch.waits_for(first), batch.waits_for(second)
    acked(second, 1)

    assert waits == (False, True)
    assert batch.settled.done() and batch.taken == [False, True]
    assert not first.under_way


async def test_only_an_answer_of_the_broker_counts_as_a_sign_of_life(channels: Channels) -> None:
    heard: list[int] = []
    first = channels[0]
    first.on_answer = lambda: heard.append(1)
    Batch([message(name) for name in "ab"]).write({first: [0, 1]})

    acked(first, 1)
    first.forget()

    assert heard == [1]


async def test_what_is_answered_too_late_is_not_reported(channels: Channels) -> None:
    confirmed: list[Message] = []
    batch = Batch([message("a")], confirmed.append)
    batch.write({channels[0]: [0]})

    batch.give_up()
    acked(channels[0], 1)

    assert (confirmed, batch.taken) == ([], [False])


async def test_no_id_is_under_way_twice(channels: Channels) -> None:
    messages = [message("a"), message("a")]

    once = publish(messages, {channels[0]: [0, 1]}, lambda *_: None)
    again = publish(messages, {channels[0]: [0]}, lambda *_: None)

    assert (once, again) == ({channels[0]: 1}, {})


async def test_a_channel_has_a_bound_of_messages_under_way(channels: Channels) -> None:
    messages = [message(str(number)) for number in range(MOST_UNDER_WAY + 10)]

    counts = publish(messages, {channels[0]: range(len(messages))}, lambda *_: None)

    assert counts[channels[0]] == MOST_UNDER_WAY == len(channels[0].under_way)


async def test_on_a_connection_that_ends_nothing_is_written_and_nothing_counted(
    channels: Channels, transport: Transport
) -> None:
    first = channels[0]
    transport.is_gone = True

    batch = Batch([message("a")])
    batch.write({first: [0]})
    first.ack(ReceivedMessage(7, "a", {}, b""))
    first.abandon()
    await asyncio.sleep(0)

    assert batch.settled.done() and batch.taken == [False]
    assert not first.under_way and not transport.writes


async def test_a_channel_is_abandoned_with_a_word_to_the_broker_and_its_messages_forgotten(
    channels: Channels, transport: Transport
) -> None:
    batch = Batch([message("a")])
    batch.write({channels[0]: [0]})

    channels[0].abandon()

    _, number, close = frame.unmarshal(transport.writes[-1])
    assert (number, type(close)) == (1, commands.Channel.Close)
    assert batch.settled.done() and batch.taken == [False]


async def test_acks_of_one_turn_of_the_event_loop_are_one_write(
    channels: Channels, transport: Transport
) -> None:
    for tag in (7, 8):
        channels[0].ack(ReceivedMessage(tag, str(tag), {}, b""))
    await asyncio.sleep(0)

    expected = [frame.marshal(commands.Basic.Ack(tag), 1) for tag in (7, 8)]
    assert transport.writes == [b"".join(expected)]
