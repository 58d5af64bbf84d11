"""A client of HTTP/1.1 that only posts, on connections that it keeps open.

Promises: a connection carries one post at a time, and no other once anything came between two posts; a post
is sent once, never again on another connection; the first final status decides, whatever follows it; a head
is read up to `HEAD_LIMIT`, a body up to `BODY_LIMIT`; nothing takes longer than the timeout. Redirects are
not followed, proxies and cookies unknown.
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from select import POLLIN, POLLOUT, poll
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from services.webhook.endpoints.connecting import Host

HEAD_LIMIT = 64 * 1024
"""For the headers of an answer and of the interim answers before it."""
BODY_LIMIT = 4096
"""A connection whose answer is longer is not kept."""
ANSWER_LIMIT = 1024
"""So much of a failed answer's body is kept."""
_BODY_PATIENCE = timedelta(seconds=2)
"""For the rest of an answer whose status is known."""
_KEPT_FOR = timedelta(seconds=4)
"""Below the idle timeout of common servers, so that we rarely post on a connection that is closing."""


class HttpFailure(Exception):
    """There is no answer."""


class CannotConnect(HttpFailure):
    """There is no connection, so nothing was sent."""


class Closed(HttpFailure):
    """The connection ended before the answer."""


class NotHttp(HttpFailure):
    """What came is no answer of HTTP/1."""


class HttpAnswer(NamedTuple):
    """`text` is how the body of a failure begins."""

    status: int
    retry_after: str | None
    text: str | None = None


@dataclass(slots=True, eq=False)
class HttpTarget:
    """Where posts go. `head` is the first line and the headers that all of them have, each with its line end;
    it may hold credentials. `timeout`: of one post."""

    host: Host
    head: bytes = field(repr=False)
    tls: ssl.SSLContext | None
    timeout: timedelta
    idle: "list[_Connection]" = field(default_factory=list, repr=False)
    is_retired: bool = False

    def retire(self) -> None:
        """No connection is kept any more: those in use end with their post."""
        self.is_retired = True
        for connection in list(self.idle):
            connection.end(Closed())


class HttpClient:
    """Made on the event loop that it uses."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[_Connection] = set()
        self._is_closed = False

    async def close(self) -> None:
        """End all connections, also those in use, and those that are being made once they are."""
        self._is_closed = True
        for connection in list(self._open):
            connection.end(Closed())
        await asyncio.sleep(0)  # the loop closes their sockets

    async def post(self, target: HttpTarget, headers: bytes, body: bytes) -> HttpAnswer:
        """`headers`: those of this post alone, each with its line end.

        Raises HttpFailure, TimeoutError, and ValueError where the host cannot be a name."""
        deadline = self._loop.time() + target.timeout.total_seconds()
        while target.idle:
            connection = target.idle.pop()
            if connection.is_usable():
                break
            connection.end(Closed())
        else:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect(target)
        return await connection.post(headers, body, deadline)

    async def _connect(self, target: HttpTarget) -> "_Connection":
        new = partial(_Connection, self._loop, target, self._open)
        try:
            connection = await target.host.connect(new, target.tls)
        except (OSError, RuntimeError) as exc:
            raise CannotConnect from exc
        if self._is_closed:
            connection.end(Closed())
            raise CannotConnect
        return connection


class _Connection(asyncio.Protocol):
    """One connection. Its only timer is for the post that it carries, and for its rest in `idle`; one that is
    early enough stays, so that there is less than one for each post."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: HttpTarget, opened: "set[_Connection]"
    ) -> None:
        self._loop = loop
        self._target, self._opened = target, opened
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # those of common clients: only the status counts
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._post: asyncio.Future[HttpAnswer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = 0.0

    async def post(self, headers: bytes, body: bytes, deadline: float) -> HttpAnswer:
        post: asyncio.Future[HttpAnswer] = self._loop.create_future()
        self._post = post
        self._answer: HttpAnswer | None = None
        self._text = b""
        self._left = HEAD_LIMIT
        self._is_complete = self._may_be_kept = False
        self._end_by(deadline)
        self._transport.write(
            b"%b%bContent-Length: %d\r\n\r\n%b" % (self._target.head, headers, len(body), body)
        )
        try:
            return await post
        finally:
            if self._post is post:  # its caller was cancelled
                self.end(Closed())

    def is_usable(self) -> bool:
        """False if there is anything to read, which the loop may not have done yet, or no room to write: over
        TLS, whose transport hides the buffer beneath it, the sign of a body that was not taken."""
        seen = [event for _, event in self._poll.poll(0)]
        return seen == [POLLOUT] and not self._transport.is_closing()

    def end(self, error: Exception) -> None:
        """Close it. The post that it carries fails by `error`, unless its status is known."""
        self._transport.abort()
        if self in self._target.idle:
            self._target.idle.remove(self)
        post, self._post = self._post, None
        if post is None or post.done():
            return
        if self._answer is not None:
            post.set_result(self._whole(self._answer))
        else:
            post.set_exception(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._opened.add(self)
        self._poll = poll()
        self._poll.register(transport.get_extra_info("socket"), POLLIN | POLLOUT)

    def data_received(self, data: bytes) -> None:
        if self._post is None:
            self.end(Closed())
            return
        self._left -= len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.end(NotHttp())
            return
        if self._is_complete:
            self._finish(self._post)
        elif self._left <= 0:
            self.end(NotHttp())
        elif self._answer is not None:
            patience = self._loop.time() + _BODY_PATIENCE.total_seconds()
            self._end_by(min(self._deadline, patience))

    def eof_received(self) -> None:
        self.end(Closed())

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        closed = Closed()
        closed.__cause__ = exc
        self.end(closed)

    def on_message_begin(self) -> None:
        self._may_be_kept = False
        self._retry_after: str | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is None and (status >= 200 or status == 101):  # 101 has no other behind it
            self._answer = HttpAnswer(status, self._retry_after)
            self._left = BODY_LIMIT

    def on_body(self, data: bytes) -> None:
        if self._answer is not None and self._answer.status >= 300 and not self._is_complete:
            self._text = (self._text + data)[:ANSWER_LIMIT]

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._is_complete:
            self._is_complete = True
            self._may_be_kept = self._parser.should_keep_alive()

    def _finish(self, post: "asyncio.Future[HttpAnswer]") -> None:
        is_kept = self._may_be_kept and not self._target.is_retired
        if self._transport.get_write_buffer_size() or not is_kept:
            self.end(Closed())
            return
        self._post = None
        self._target.idle.append(self)
        self._end_by(self._loop.time() + _KEPT_FOR.total_seconds())
        if not post.done():
            post.set_result(self._whole(cast(HttpAnswer, self._answer)))

    def _whole(self, answer: HttpAnswer) -> HttpAnswer:
        if not self._text:
            return answer
        return answer._replace(text=self._text.decode("utf-8", "replace"))

    def _end_by(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._deadline > self._timer_at:
            self._end_by(self._deadline)
        else:
            self.end(TimeoutError())
