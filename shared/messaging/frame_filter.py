"""AMQP frames of what we receive most: messages, confirms and returns.

Promises: such frames of a channel that is listed in `channels` are handed to its listener at once, in their
order and in the step in which their last byte came; the library gets all other bytes unchanged, among them
those of a peer that speaks no AMQP. The library's own way costs a task, three queues and some ten awaits for
each message (docs/adr/0021).
"""

import asyncio
import struct
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pamqp import frame
from pamqp.header import ContentHeader

from shared.messaging.frames import (
    BASIC_ACK,
    BASIC_CLASS,
    BODY_FRAME,
    FRAME_END,
    FRAME_OVERHEAD,
    HEADER_FRAME,
    METHOD_FRAME,
    PROPERTIES,
)

_HEARTBEAT = 8
_KINDS = frozenset({METHOD_FRAME, HEADER_FRAME, BODY_FRAME, _HEARTBEAT})
_END = FRAME_END[0]
_START = struct.Struct(">BHI")
_CONFIRM = struct.Struct(">QB")
_TAG = struct.Struct(">Q")
_LENGTH = struct.Struct(">I")
_CONTENT = struct.Struct(">HHQH")
_DELIVER, _RETURN, _ACK, _NACK = (
    struct.pack(">HH", BASIC_CLASS, each) for each in (60, 50, BASIC_ACK, 120)
)
_MULTIPLE = 1

_ALIVE = bytes([_HEARTBEAT, 0, 0, 0, 0, 0, 0, _END])
_ALIVE_EVERY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """`tag` is what an ack names. Only headers that are texts are kept; the broker adds others."""

    tag: int
    message_id: str | None
    headers: dict[str, str]
    body: bytes


class ChannelListener(Protocol):
    """One channel of ours. Its methods must not raise: that ends the connection."""

    def on_message(self, message: ReceivedMessage) -> None: ...

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        """The broker took the message, or refuses it; with `multiple`, all up to it."""

    def on_return(self, message_id: str | None) -> None:
        """No queue takes the message; its confirm follows."""


class _Content:
    """A message of one channel whose frames are coming: where its header is missing, `left` is None."""

    __slots__ = ("headers", "left", "message_id", "parts", "tag")

    def __init__(self, tag: int | None) -> None:
        self.tag = tag
        """None: the message is returned, not delivered."""
        self.message_id: str | None = None
        self.headers: dict[str, str] = {}
        self.left: int | None = None
        self.parts: list[bytes] = []


class FrameFilter(asyncio.Protocol):
    """Takes the place of the library's protocol on its transport, and hands it what is not for us."""

    def __init__(self, library: asyncio.Protocol) -> None:
        self.channels: dict[int, ChannelListener] = {}
        """By their numbers."""
        self._library = library
        self._contents: dict[int, _Content] = {}
        self._waiting = bytearray()
        self._needed = 0
        """Bytes that make the frame whole that has begun."""
        self._is_foreign = False
        self._loop = asyncio.get_running_loop()
        self._alive_at = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        self._library.connection_lost(exc)

    def pause_writing(self) -> None:
        self._library.pause_writing()

    def resume_writing(self) -> None:
        self._library.resume_writing()

    def eof_received(self) -> bool | None:
        self._library.data_received(bytes(self._waiting))  # it knows what a piece of a frame means
        self._waiting.clear()
        return self._library.eof_received()

    def data_received(self, data: bytes) -> None:
        if self._is_foreign:
            self._library.data_received(data)
            return
        if self._waiting:
            self._waiting += data
            if len(self._waiting) < self._needed:
                return
            data = bytes(self._waiting)
            self._waiting.clear()
        done = self._take_frames(data)
        if self._is_foreign:
            self._library.data_received(data[done:])
        elif done < len(data):
            self._waiting += data[done:]

    def _take_frames(self, data: bytes) -> int:
        """Handle all frames that are whole; where the next one begins."""
        at = passed = 0
        taken = False
        size = len(data)
        self._needed = FRAME_OVERHEAD
        while size - at >= FRAME_OVERHEAD:
            kind, number, length = _START.unpack_from(data, at)
            end = at + length + FRAME_OVERHEAD
            if kind not in _KINDS or (end <= size and data[end - 1] != _END):
                self._is_foreign = True
                break
            if end > size:
                self._needed = end - at
                break
            listener = self.channels.get(number)
            if listener is not None and self._take(listener, number, data[at:end]):
                if passed < at:
                    self._library.data_received(data[passed:at])
                passed = end
                taken = True
            at = end
        if passed < at:
            self._library.data_received(data[passed:at])
        elif taken and self._loop.time() - self._alive_at > _ALIVE_EVERY.total_seconds():
            # It takes a connection without frames for a broken one.
            self._alive_at = self._loop.time()
            self._library.data_received(_ALIVE)
        return at

    def _take(self, listener: ChannelListener, number: int, whole: bytes) -> bool:
        """False: the frame is the library's."""
        kind = whole[0]
        if kind == METHOD_FRAME:
            return self._take_method(listener, number, whole)
        content = self._contents.get(number)
        if content is None:
            return False
        if kind == HEADER_FRAME:
            content.message_id, content.headers, content.left = _read_header(whole)
        elif content.left is not None:
            content.parts.append(whole[7:-1])
            content.left -= len(whole) - FRAME_OVERHEAD
        if content.left == 0:
            del self._contents[number]
            if content.tag is None:
                listener.on_return(content.message_id)
            else:
                body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
                listener.on_message(
                    ReceivedMessage(content.tag, content.message_id, content.headers, body)
                )
        return True

    def _take_method(self, listener: ChannelListener, number: int, whole: bytes) -> bool:
        method = whole[7:11]
        if method == _DELIVER:  # behind the consumer's name
            self._contents[number] = _Content(_TAG.unpack_from(whole, 12 + whole[11])[0])
        elif method in (_ACK, _NACK):
            tag, bits = _CONFIRM.unpack_from(whole, 11)
            listener.on_confirm(tag, multiple=bool(bits & _MULTIPLE), taken=method == _ACK)
        elif method == _RETURN:
            self._contents[number] = _Content(None)
        else:
            return False
        return True


def _read_header(whole: bytes) -> tuple[str | None, dict[str, str], int]:
    """The message's id, its headers, and the size of its body."""
    try:
        return _read_usual(whole)
    except (ValueError, struct.error, IndexError):
        _, _, header = frame.unmarshal(whole)
        if not isinstance(header, ContentHeader):
            raise TypeError("the AMQP library read a header as another frame") from None
        properties = header.properties
        texts = {n: each for n, each in (properties.headers or {}).items() if isinstance(each, str)}
        return properties.message_id, texts, header.body_size


def _read_usual(whole: bytes) -> tuple[str, dict[str, str], int]:
    """The same of a header as `shared.messaging.frames` writes it. ValueError, struct.error or IndexError:
    it is another one."""
    _, _, size, flags = _CONTENT.unpack_from(whole, 7)
    if flags != PROPERTIES:
        raise ValueError("other properties")
    at = 21
    at += 1 + whole[at]
    (length,) = _LENGTH.unpack_from(whole, at)
    at += 4
    table_end = at + length
    headers: dict[str, str] = {}
    while at < table_end:
        name_end = at + 1 + whole[at]
        if whole[name_end] != ord("S"):
            raise ValueError("not a text")
        (length,) = _LENGTH.unpack_from(whole, name_end + 1)
        start = name_end + 5
        headers[whole[at + 1 : name_end].decode()] = whole[start : start + length].decode()
        at = start + length
    at += 1  # delivery mode
    id_end = at + 1 + whole[at]
    if at - 1 != table_end or id_end != len(whole) - 1:
        raise ValueError("other lengths")
    return whole[at + 1 : id_end].decode(), headers, size
