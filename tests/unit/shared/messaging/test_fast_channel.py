"""Messages and acks written at once, on channels of a connection that was never made."""

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.connection import Connection
from pamqp import commands, frame
from pamqp.header import ContentHeader

from shared.messaging.frames import Message
from shared.messaging.rabbit.confirms import Batch
from shared.messaging.rabbit.fast_channel import MOST_UNDER_WAY, FastChannel, publish
from tests.unit.shared.messaging.test_amqp_frames import by_the_library

Channels = tuple[FastChannel, FastChannel]


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    connection = Connection("amqp://localhost")
    connection.server_properties = {"capabilities": {"publisher_confirms": True}}
    connection.connection_tune = commands.Connection.Tune(frame_max=131_072)
    made = FastChannel(Channel(connection, 1)), FastChannel(Channel(connection, 2))
    yield made
    for each in made:
        await each.close()


def message(name: str) -> Message:
    return Message("mdm.events", f"mdm.Connect.{name}", name, {"device": name}, b"{}")


def written(channel: FastChannel) -> list[bytes]:
    queue = channel.channel.write_queue
    return [queue.get_nowait().payload for _ in range(queue.qsize())]


def acked(channel: FastChannel, tag: int) -> None:
    channel.channel.confirmations.pop(tag).set_result(commands.Basic.Ack(tag))


async def test_messages_for_several_channels_are_one_write_of_the_librarys_bytes(
    channels: Channels,
) -> None:
    first, second = channels
    messages = [message(name) for name in "abc"]

    Batch(messages).write({first: [0, 2], second: [1]})

    frames = [(1, messages[0]), (1, messages[2]), (2, messages[1])]
    expected = [by_the_library(number, each, 131_064) for number, each in frames]
    assert written(first) == [b"".join(expected)]


async def test_a_batch_is_settled_when_each_channel_has_answered(channels: Channels) -> None:
    first, second = channels
    batch = Batch([message(name) for name in "abc"])
    batch.write({first: [0, 2], second: [1]})

    acked(first, 1)
    acked(first, 2)
    await asyncio.sleep(0)
    waits = (batch.waits_for(first), batch.waits_for(second), batch.settled.done())
    acked(second, 1)
    await asyncio.sleep(0)

    assert waits == (False, True, False)
    assert batch.settled.done() and batch.taken == [True] * 3
    assert not first.under_way


async def test_a_channel_that_is_given_up_ends_the_waiting_for_its_messages_only(
    channels: Channels,
) -> None:
    first, second = channels
    batch = Batch([message(name) for name in "ab"])
    batch.write({first: [0], second: [1]})

    first.forget()
    await asyncio.sleep(0)
    waits = batch.waits_for(first), batch.waits_for(second)
    acked(second, 1)
    await asyncio.sleep(0)

    assert waits == (False, True)
    assert batch.settled.done() and batch.taken == [False, True]
    assert not first.channel.confirmations


async def test_what_is_answered_too_late_is_not_reported(channels: Channels) -> None:
    confirmed: list[int] = []
    batch = Batch([message("a")], confirmed.append)
    batch.write({channels[0]: [0]})

    batch.give_up()
    acked(channels[0], 1)
    await asyncio.sleep(0)

    assert (confirmed, batch.taken) == ([], [False])


async def test_an_error_that_comes_too_late_is_no_lost_exception(channels: Channels) -> None:
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    batch = Batch([message("a")])
    batch.write({channels[0]: [0]})

    batch.give_up()
    channels[0].channel.confirmations.pop(1).set_exception(RuntimeError("returned"))
    await asyncio.sleep(0)
    gc.collect()

    assert not lost


async def test_no_id_is_under_way_twice(channels: Channels) -> None:
    messages = [message("a"), message("a")]

    once = publish(messages, {channels[0]: [0, 1]}, lambda *_: None)
    again = publish(messages, {channels[0]: [0]}, lambda *_: None)

    assert (once[channels[0]], again[channels[0]]) == (1, 0)


async def test_a_channel_has_a_bound_of_messages_under_way(channels: Channels) -> None:
    messages = [message(str(number)) for number in range(MOST_UNDER_WAY + 10)]

    counts = publish(messages, {channels[0]: range(len(messages))}, lambda *_: None)

    assert counts[channels[0]] == MOST_UNDER_WAY == len(channels[0].channel.confirmations)


async def test_without_room_nothing_is_written_and_nothing_counted(channels: Channels) -> None:
    first = channels[0]
    while not first.channel.write_queue.full():
        first.channel.write_queue.put_nowait(SimpleNamespace(payload=b""))

    batch = Batch([message("a")])
    batch.write({first: [0]})

    assert batch.settled.done() and batch.taken == [False]
    assert first.channel.delivery_tag == 0 and not first.under_way
    written(first)


async def test_acks_of_one_turn_of_the_event_loop_are_one_write(channels: Channels) -> None:
    for tag in (7, 8):
        channels[0].ack(
            DeliveredMessage(
                commands.Basic.Deliver("c", tag, False, "e", "k"),
                ContentHeader(),
                b"",
                channels[0].channel,
            )
        )
    await asyncio.sleep(0)

    expected = [frame.marshal(commands.Basic.Ack(tag), 1) for tag in (7, 8)]
    assert written(channels[0]) == [b"".join(expected)]
