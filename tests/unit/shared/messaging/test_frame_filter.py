"""Incoming AMQP frames: what is taken, against the library's own encoder, and what the library still gets."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from shared.messaging.frame_filter import FrameFilter, ReceivedMessage

OURS, OTHER = 3, 4
HEARTBEAT = frame.marshal(Heartbeat(), 0)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: len(text.encode()) <= 128
)
header_values = texts | st.integers(-(2**31), 2**31 - 1) | st.booleans() | st.none()


class Library(asyncio.Protocol):
    def __init__(self) -> None:
        self.got = b""
        self.calls: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(f"lost: {exc}")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    @property
    def frames(self) -> bytes:
        """Without the heartbeats that the filter adds."""
        return self.got.replace(HEARTBEAT, b"")


class Channel:
    def __init__(self) -> None:
        self.messages: list[ReceivedMessage] = []
        self.confirms: list[tuple[int, bool, bool]] = []
        self.returned: list[str | None] = []

    def on_message(self, message: ReceivedMessage) -> None:
        self.messages.append(message)

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        self.confirms.append((tag, multiple, taken))

    def on_return(self, message_id: str | None) -> None:
        self.returned.append(message_id)


class Filtered:
    """A filter between bytes and what they become."""

    def __init__(self) -> None:
        self.library, self.channel = Library(), Channel()
        self.filter = FrameFilter(self.library)
        self.filter.channels[OURS] = self.channel

    def feed(self, data: bytes, step: int = 0) -> "Filtered":
        for start in range(0, len(data), step or len(data) or 1):
            self.filter.data_received(data[start : start + (step or len(data))])
        return self


def content(
    method: Any, properties: commands.Basic.Properties, body: bytes, channel: int, room: int = 100
) -> bytes:
    parts = [
        frame.marshal(method, channel),
        frame.marshal(ContentHeader(body_size=len(body), properties=properties), channel),
    ]
    for start in range(0, len(body), room):
        parts.append(frame.marshal(ContentBody(body[start : start + room]), channel))
    return b"".join(parts)


def delivered(body: bytes = b"{}", tag: int = 1, channel: int = OURS, **properties: Any) -> bytes:
    method = commands.Basic.Deliver("ctag1.x", tag, False, "mdm.events", "mdm.Connect.05")
    given_properties = {"message_id": "id-1", "delivery_mode": 2, "content_type": "a/b"}
    made = commands.Basic.Properties(**{**given_properties, "headers": {}, **properties})
    return content(method, made, body, channel)


def run(step: Any) -> Any:
    async def inside() -> Any:
        return step()

    return asyncio.run(inside())


@given(
    body=st.binary(max_size=350),
    headers=st.dictionaries(texts.filter(bool), header_values, max_size=4),
    tag=st.integers(1, 2**63 - 1),
    message_id=st.none() | texts.filter(bool),
    more=st.sampled_from(
        [{}, {"app_id": "x"}, {"timestamp": datetime(2026, 1, 1, tzinfo=UTC)}, {"priority": 3}]
    ),
    step=st.sampled_from([0, 1, 3, 50]),
)
def test_a_delivered_message_is_what_the_library_would_read(
    body: bytes,
    headers: dict[str, Any],
    tag: int,
    message_id: str | None,
    more: dict[str, Any],
    step: int,
) -> None:
    data = delivered(body, tag, headers=headers, message_id=message_id, **more)

    filtered = run(lambda: Filtered().feed(data, step))

    kept = {name: each for name, each in headers.items() if isinstance(each, str)}
    assert filtered.channel.messages == [ReceivedMessage(tag, message_id, kept, body)]
    assert filtered.library.frames == b""


@pytest.mark.parametrize("step", [0, 1, 7, 64])
async def test_frames_of_others_reach_the_library_unchanged_and_in_their_order(step: int) -> None:
    others = [
        frame.marshal(commands.Basic.ConsumeOk("ctag1.x"), OURS),
        delivered(b"x" * 150, channel=OTHER),
        frame.marshal(commands.Basic.Ack(1), OTHER),
        frame.marshal(commands.Channel.Close(404, "NOT_FOUND", 0, 0), OURS),
        frame.marshal(commands.Connection.Blocked("low"), 0),
    ]
    data = b"".join(each + delivered(tag=tag) for tag, each in enumerate(others, 1))

    filtered = Filtered().feed(data, step)

    assert filtered.library.frames == b"".join(others)
    assert [each.tag for each in filtered.channel.messages] == [1, 2, 3, 4, 5]


async def test_messages_of_two_channels_may_come_interleaved() -> None:
    filtered = Filtered()
    second = filtered.filter.channels[OTHER] = Channel()
    mine = delivered(b"a" * 250, tag=1)
    its = delivered(b"b" * 250, tag=2, channel=OTHER)
    cut = mine.index(b"a" * 50) + 101  # behind the first frame of the body

    filtered.feed(mine[:cut] + its + mine[cut:])

    assert [each.body for each in filtered.channel.messages] == [b"a" * 250]
    assert [each.body for each in second.messages] == [b"b" * 250]


async def test_confirms_are_told_with_what_they_say() -> None:
    data = b"".join(
        frame.marshal(each, OURS)
        for each in (
            commands.Basic.Ack(5, False),
            commands.Basic.Ack(2**40, True),
            commands.Basic.Nack(6, False, False),
            commands.Basic.Nack(9, True, True),
        )
    )

    filtered = Filtered().feed(data)

    assert filtered.channel.confirms == [
        (5, False, True),
        (2**40, True, True),
        (6, False, False),
        (9, True, False),
    ]


async def test_a_returned_message_is_named_by_its_id() -> None:
    method = commands.Basic.Return(312, "NO_ROUTE", "mdm.events", "nowhere")
    data = content(method, commands.Basic.Properties(message_id="id-7"), b"x" * 220, OURS)

    filtered = Filtered().feed(data + delivered())

    assert filtered.channel.returned == ["id-7"]
    assert len(filtered.channel.messages) == 1


async def test_the_library_hears_a_sign_of_life_while_it_gets_no_frames() -> None:
    filtered = Filtered()

    for _ in range(100):
        filtered.feed(delivered())

    assert filtered.library.got == HEARTBEAT


@pytest.mark.parametrize(
    "data",
    [
        b"AMQP\x00\x00\x09\x01",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        delivered()[:-1] + b"x" + delivered(),
        b"\x15\x03\x01\x00\x02\x02\x46" + b"\x00" * 20,
    ],
)
async def test_a_peer_that_speaks_no_amqp_is_left_to_the_library(data: bytes) -> None:
    filtered = Filtered().feed(data)
    filtered.feed(b"more")

    assert filtered.library.got.endswith(data[-8:] + b"more")
    assert len(filtered.channel.messages) == 0


async def test_a_piece_of_a_frame_is_the_librarys_when_the_connection_ends() -> None:
    filtered = Filtered().feed(delivered()[:20])

    filtered.filter.eof_received()
    filtered.filter.connection_lost(None)

    assert filtered.library.got == delivered()[:20]
    assert filtered.library.calls == ["eof", "lost: None"]


async def test_the_library_hears_when_it_may_write() -> None:
    filtered = Filtered()

    filtered.filter.pause_writing()
    filtered.filter.resume_writing()

    assert filtered.library.calls == ["pause", "resume"]
