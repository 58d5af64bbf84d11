"""HTTP/1.1 connections with bounds that uvicorn's own protocol does not set.

Promises: the headers of a request are whole within 30 s and 128 KiB (408, 431), its body within a
minute (408); a client that takes nothing of its answer for a minute is cut off; a connection on
which nothing happens ends; what is no clean HTTP hears 400 and nothing
behind it on that connection is read, so that a proxy and we never disagree about where a request
begins.
"""

import asyncio
from datetime import timedelta
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_LIMIT = 128 * 1024
HEADER_DEADLINE = timedelta(seconds=30)
BODY_DEADLINE = timedelta(seconds=60)
ANSWER_DEADLINE = timedelta(seconds=60)
"""Within it a client must take some of what waits for it; a slow one may go on for long."""

LINGER = timedelta(seconds=1)


class HeadersTooLarge(Exception):
    """Ends the parsing of a request from within a callback of the parser."""


class BoundedHttpProtocol(HttpToolsProtocol):
    header_deadline = HEADER_DEADLINE
    body_deadline = BODY_DEADLINE
    answer_deadline = ANSWER_DEADLINE

    _deadline: asyncio.TimerHandle | None = None
    _answer_watch: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _unfinished_bytes = 0
    _in_headers = True
    _began = False
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # As uvicorn's own: asyncio hands a stream protocol a Transport.
        super().connection_made(transport)
        self._expect(self.header_deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._forget_answer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._began = False
        super().data_received(data)
        if self._in_headers and not self._began:
            # One endless header reaches no callback of the parser.
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > HEADER_LIMIT:
                self._refuse(431)
        if not self._is_refused:
            self._watch()

    def _watch(self) -> None:
        """Set a deadline while it is the client who must go on, and none while it is us."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                self._expect(None)
            elif self._deadline is None:
                self._expect(self.body_deadline)
        elif self._deadline is None and self.timeout_keep_alive_task is None:
            self._expect(self.header_deadline)

    def _expect(self, within: timedelta | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if within is not None:
            self._deadline = self.loop.call_later(within.total_seconds(), self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        self._refuse(408)

    def on_message_begin(self) -> None:
        self._in_headers = self._began = True
        self._header_bytes = self._unfinished_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEADER_LIMIT:
            raise HeadersTooLarge

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._expect(None)
        super().on_headers_complete()

    # --- what the client does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        self._forget_answer()  # it was read: what is written behind it has a time of its own
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_answer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_answer()

    def _watch_answer(self) -> None:
        """Look now and then whether what waits in our buffer gets less. Only while nothing is added
        to it: writing is paused, or the transport is closed, which waits for ever until it is read."""
        waits = self.transport.get_write_buffer_size()
        if waits and self._answer_watch is None:
            self._answer_watch = self.loop.call_later(
                self.answer_deadline.total_seconds(), self._look_at_answer, waits
            )

    def _forget_answer(self) -> None:
        if self._answer_watch is not None:
            self._answer_watch.cancel()
            self._answer_watch = None

    def _look_at_answer(self, waited: int) -> None:
        self._answer_watch = None
        if self.transport.get_write_buffer_size() >= waited:
            self.transport.abort()
        else:
            self._watch_answer()

    # --- what we refuse

    def send_400_response(self, msg: str) -> None:
        """uvicorn's name for: this cannot be parsed."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # Garbage behind a good request: that one is answered, then the connection ends.
            self._is_refused = True
            cycle.keep_alive = False
        else:
            self._refuse(431 if self._header_bytes > HEADER_LIMIT else 400)

    def _refuse(self, status: int) -> None:
        """Answer, and swallow for a moment what still comes: closing at once could lose the answer."""
        self._is_refused = True
        self._expect(None)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
        if self.transport.is_closing():
            self._watch_answer()
            return
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
        self.transport.write(
            f"{line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode("ascii")
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._watch_answer()
        self.flow.resume_reading()
        self.loop.call_later(LINGER.total_seconds(), self.transport.close)
