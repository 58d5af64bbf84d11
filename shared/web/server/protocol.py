"""HTTP/1.1 connections with bounds that uvicorn's own protocol does not set.

Promises: the headers of a request are whole within 30 s (408) and are 100 lines and 128 KiB at most (431);
its body comes at 1 KiB/s or faster and within a minute (408); bytes that reach no callback (an endless
chunk extension, an endless name) end the connection after 128 KiB; eight requests wait behind the one that
is answered, and the connection closes behind them if more come; a client that takes nothing of its answer
for a minute is cut off; a connection on which nothing happens ends.

What is no clean HTTP gets 400, and nothing behind it on that connection is read, so that a proxy and we
never disagree about where a request begins. What follows the headers changes nothing: a trailer is refused,
since a proxy that strips headers may let trailers pass. Each request has one answer: what is wrong with one
takes nothing of the answers before it, and once its own answer has begun, the connection closes. When the
client is gone, each request of its connection knows.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shared.web.framing import FramingRefused, Section, TooMuch, check_framing, last_answer
from shared.web.server.connections import AnswerWatch, Connections, GentleEnd, Handshake

HEADER_LIMIT = 128 * 1024
"""Also of what reaches no callback of the parser, such as a chunk extension."""
MOST_HEADERS = 100
HEADER_COST = 32
"""Bytes that a line counts beside its name and value: `a:` costs us more than it costs its client."""
MOST_BEHIND = 8
"""Requests that wait behind the one that is answered."""
LEAST_OF_A_BODY = 10 * 1024
"""Bytes of a body that must come between two checks."""
LINGER = timedelta(seconds=1)

StartTask = Callable[[RequestResponseCycle, Any], None]
"""Answers a request by an app of ASGI, in a task."""
TakeWhole = Callable[[RequestResponseCycle, StartTask], bool]
"""Begins a request whose body is there. False: it must be started as any other, and nothing was done."""


class BoundedHttpProtocol(HttpToolsProtocol):
    header_deadline = timedelta(seconds=30)
    body_deadline = timedelta(seconds=60)
    """Only time in which we read counts: a body may wait for us as long as it must."""
    body_check = timedelta(seconds=10)
    answer_deadline = timedelta(seconds=60)
    """Within it a client must take some of what waits for it; a slow one may go on for long."""
    crowd: Connections
    """The connections of its listener."""
    handshake: Handshake | None = None
    """The handshake before it, of a listener with TLS."""
    whole: Mapping[tuple[str, bytes], TakeWhole] = {}
    """Begins requests that came in one piece, by method and raw path."""

    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = _unheard_bytes = _body_bytes = 0
    _body_time = timedelta()
    _section = Section.BETWEEN
    _was_heard = False
    _ends_headers = False
    _begun: RequestResponseCycle | None = None
    """The request whose headers came last, until it is begun."""
    _under_way: RequestResponseCycle | None = None
    """The request that was begun last: those in the pipeline wait for its answer."""
    _is_refused = False
    _unparsable = 400
    _refusal_behind_answers: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # type: ignore[method-assign,assignment]
        super().__init__(*args, **kwargs)  # its parser looks for `on_body`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # As uvicorn's own: asyncio hands a stream protocol a Transport.
        super().connection_made(transport)
        self._answer = AnswerWatch(transport, self.answer_deadline)
        if self.handshake is not None:
            self.handshake.end()
        self._expect(self.header_deadline)
        self.crowd.enter(self, self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        self._answer.forget()
        self.crowd.leave(self, self._address)
        for cycle in (self._under_way, *(behind for behind, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def waits_for_client(self) -> bool:
        """Nothing is worked on, and the client may go on or not."""
        if self.pipeline:
            return False
        return self.cycle is None or self.cycle.response_complete or self._section is Section.BODY

    def give_way(self) -> None:
        self.crowd.leave(self, self._address)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._was_heard = False
        super().data_received(data)
        if self._pieces and not self._is_refused:
            self._take_body()
        if self._begun is not None:
            self._begin(self._begun)
        if self._is_refused:
            return
        # One endless header, trailer or chunk extension reaches no callback of the parser.
        self._unheard_bytes = 0 if self._was_heard else self._unheard_bytes + len(data)
        if self._unheard_bytes > HEADER_LIMIT:
            self._refuse(400 if self._section is Section.BODY else 431)
        else:
            self._watch()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._ends_headers:
            self._begun = cycle  # what came with its headers is read first: it may be all of it
        else:
            self._under_way = cycle
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: RequestResponseCycle) -> None:
        self._begun, self._under_way = None, cycle
        take = self.whole.get((cycle.scope["method"], cycle.scope["raw_path"]))
        is_whole = not (cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue)
        if take is None or not is_whole or not take(cycle, self._start_asgi_task):
            self._start_asgi_task(cycle, self.app)

    def _watch(self) -> None:
        """Set a deadline while it is the client who must go on, and none while it is us."""
        cycle = self.cycle
        if self._section is Section.BODY:
            if self._deadline is None:
                self._await_body()
        elif cycle is not None and not cycle.response_complete:
            self._expect(None)
        elif self._deadline is None and self.timeout_keep_alive_task is None:
            self._expect(self.header_deadline)

    def _expect(self, within: timedelta | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if within is not None:
            self._deadline = self.loop.call_later(within.total_seconds(), self._refuse, 408)

    def _await_body(self) -> None:
        self._deadline = self.loop.call_later(
            self.body_check.total_seconds(), self._check_body, self._body_bytes
        )

    def _check_body(self, before: int) -> None:
        if not self.flow.read_paused:
            self._body_time += self.body_check
            is_slow = self._body_bytes - before < LEAST_OF_A_BODY
            if is_slow or self._body_time >= self.body_deadline:
                self._refuse(408)
                return
        self._await_body()

    # --- what the parser finds

    def on_message_begin(self) -> None:
        self._was_heard = True
        if len(self.pipeline) >= MOST_BEHIND:
            raise TooMuch
        self._section = Section.HEADERS
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._section is not Section.HEADERS:
            raise FramingRefused("a trailer")
        self._count(HEADER_COST + len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._was_heard = True
        self._header_bytes += size
        if self._header_bytes > HEADER_LIMIT or len(self.headers) >= MOST_HEADERS:
            self._unparsable = 431
            raise TooMuch

    def on_headers_complete(self) -> None:
        self._was_heard = True
        check_framing(
            self.parser.get_http_version(), self.headers, upgrades=self.parser.should_upgrade()
        )
        self._ends_headers = True
        try:
            super().on_headers_complete()
        finally:
            self._ends_headers = False
        self._section = Section.BODY
        self._body_bytes, self._body_time = 0, timedelta()
        self._expect(None)

    def _take_body(self) -> None:
        """All that came at once: chunk by chunk, a body of tiny ones would hold the event loop."""
        body = b"".join(self._pieces)
        self._pieces.clear()
        self._was_heard = True
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._pieces:
            self._take_body()
        self._was_heard = True
        self._section = Section.BETWEEN
        self._expect(None)
        super().on_message_complete()
        if self.parser.should_upgrade():
            # We answer in HTTP, and the parser drops what came in one piece with the request.
            self._refuse(400)

    # --- what the client does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer.watch()

    def resume_writing(self) -> None:
        self._answer.forget()  # it was read: what is written behind it has a time of its own
        super().resume_writing()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._answer.watch()
        elif is_last and self._refusal_behind_answers is not None:
            self._end(self._refusal_behind_answers)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._answer.watch()

    # --- what we refuse

    def send_400_response(self, msg: str) -> None:
        """uvicorn's name for: this cannot be parsed."""
        self._refuse(self._unparsable)

    def _refuse(self, status: int) -> None:
        """Read nothing more; say why, if the request that is wrong can still be answered."""
        self._is_refused = True
        self._expect(None)
        cycle = self.cycle
        if self._section is not Section.BODY:
            if cycle is None or cycle.response_complete:
                self._end(status)
            else:  # garbage behind good requests: those are answered, then the connection ends
                cycle.keep_alive = False
                cycle.transport = GentleEnd(self.transport, lambda: self._end(None))
        elif self.pipeline:  # its turn has not come yet
            self.pipeline.popleft()
            self._refusal_behind_answers = status
        elif cycle.response_complete:
            self._end(None)
        else:
            cycle.disconnected = True
            cycle.message_event.set()  # for the request under way, its client is gone
            if cycle.response_started:
                self.transport.close()  # cut short, which its client can see
                self._answer.watch()
            else:
                self._end(status)

    def _end(self, status: int | None) -> None:
        """Answer, if there is something to say, and swallow for a moment what still comes: closing at
        once could lose the answer."""
        if self.transport.is_closing():
            self._answer.watch()
            return
        if status is not None:
            self.transport.write(last_answer(status))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._answer.watch()
        self.flow.resume_reading()
        self.loop.call_later(LINGER.total_seconds(), self.transport.close)
