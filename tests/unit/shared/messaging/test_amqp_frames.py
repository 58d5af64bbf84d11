"""Our own encoding of AMQP frames against the general encoder of the library."""

from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from shared.messaging.frames import Message, ack_frame, publish_frames

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(
    lambda text: len(text.encode()) <= 255
)
header_names = names.filter(lambda text: 0 < len(text.encode()) <= 128)
keys = names.filter(lambda text: "\n" not in text)


def by_the_library(channel: int, message: Message, room: int) -> bytes:
    properties = commands.Basic.Properties(
        content_type=message.content_type,
        headers=dict(message.headers),
        delivery_mode=2,
        message_id=message.message_id,
    )
    parts = [
        frame.marshal(
            commands.Basic.Publish(
                exchange=message.exchange, routing_key=message.routing_key, mandatory=True
            ),
            channel,
        ),
        frame.marshal(ContentHeader(body_size=len(message.body), properties=properties), channel),
    ]
    for start in range(0, len(message.body), room):
        parts.append(frame.marshal(ContentBody(message.body[start : start + room]), channel))
    return b"".join(parts)


@given(
    channel=st.integers(min_value=1, max_value=65535),
    key=keys,
    message_id=names.filter(bool),
    headers=st.dictionaries(header_names, names, min_size=1, max_size=4),
    body=st.binary(max_size=300),
)
def test_a_published_message_has_the_bytes_that_the_library_would_send(
    channel: int, key: str, message_id: str, headers: dict[str, str], body: bytes
) -> None:
    ordered = dict(sorted(headers.items()))  # the library sorts them
    message = Message("mdm.events", key, message_id, ordered, body)

    ours = publish_frames(channel, message, frame_max=108)

    assert ours == by_the_library(channel, message, 100)


def test_a_name_that_amqp_cannot_carry_is_cut_and_breaks_no_frame() -> None:
    message = Message("mdm.events", "k", "ä" * 200, {"device": "\ud800" * 3}, b"{}")

    frames = publish_frames(1, message, 131_072)

    _, _, method = frame.unmarshal(frames)
    assert isinstance(method, commands.Basic.Publish)


def test_an_ack_has_the_bytes_that_the_library_would_send() -> None:
    assert ack_frame(7, 2**40) == frame.marshal(commands.Basic.Ack(2**40), 7)
