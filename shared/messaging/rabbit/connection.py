"""One connection to RabbitMQ that is kept alive in the background.

Promises: it connects again after each end, with growing pauses; each wait for the broker has a bound, also
for a frozen one; closing ends within seconds; an error or a cancellation by the library becomes
BrokerUnavailable.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
from aiormq.connection import (
    Connection,
    TCPTransportFactory,
    TLSTransportFactory,
    TransportFactory,
)
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosed,
    ConnectionClosed,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from yarl import URL

from shared.domain.errors import BrokerUnavailable, Misconfigured
from shared.messaging.frame_filter import FrameFilter
from shared.network.connection_failures import Peer, reason_of
from shared.network.urls import read_url
from shared.ports.clock import Clock

log = structlog.get_logger()

CONNECT_TIMEOUT = timedelta(seconds=10)
CLOSE_TIMEOUT = timedelta(seconds=2)
FIRST_PAUSE = timedelta(seconds=0.1)
LONGEST_PAUSE = timedelta(seconds=5)
HEARTBEAT = timedelta(seconds=10)
"""After three of them without a sign of life the connection counts as broken."""

_PEER = Peer("MDM_AMQP_URL", "the parameter cafile of MDM_AMQP_URL", "amqps://")
_SAID = re.compile(r"\b[A-Z]+_[A-Z_]+\b")
"""The name of a reply code of AMQP, as in `(530, "NOT_ALLOWED - vhost x not found")`."""

Ends = Collection["asyncio.Future[Any]"]
"""Futures whose end, beside that of the connection, makes a connection useless."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn the library's exceptions into ours; our own cancellation passes."""
    try:
        yield
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The library cancels those who wait on a channel that breaks.
        raise BrokerUnavailable("RabbitMQ: connection lost") from exc
    except (AMQPError, OSError, RuntimeError, TimeoutError, EOFError) as exc:
        raise BrokerUnavailable(f"RabbitMQ: {_reason(exc)}") from exc


def _reason(error: Exception) -> str:
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return "it refuses the user or the password in MDM_AMQP_URL"
    if isinstance(error, ConnectionClosed | ChannelClosed):
        said = _SAID.search(str(error))
        return f"it said {said[0]}" if said else "it closed the connection"
    if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):
        return "it refuses the vhost in MDM_AMQP_URL"  # the library takes its words for a fault
    if isinstance(error, ProtocolSyntaxError | IncompatibleProtocolError):
        return "what answers there is no AMQP 0-9-1"
    return reason_of(error, _PEER) or "it did not do what it was asked"


def checked_url(url: str, name: str) -> str:
    """The URL with our heartbeat and the connection's name; raises Misconfigured."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("amqp", "amqps") and parts.hostname and parts.port != 0
        read_url(url)
    except ValueError:
        usable = False
    if not usable:
        raise Misconfigured(
            "MDM_AMQP_URL is not a usable URL: amqp://USER:PASSWORD@HOST:PORT/VHOST"
        )
    query = {"heartbeat": str(int(HEARTBEAT.total_seconds())), "name": name}
    query.update(parse_qsl(parts.query))
    return urlunsplit(parts._replace(query=urlencode(query), path=parts.path or "/"))


class Link:
    """A connection that `run` keeps alive. `set_up` makes it useful and says what ends that."""

    def __init__(
        self,
        url: str,
        name: str,
        clock: Clock,
        set_up: Callable[["FilteredConnection"], Awaitable[Ends]],
        on_down: Callable[[], None],
    ) -> None:
        self._url = checked_url(url, name)
        self._name = name
        self._clock = clock
        self._set_up = set_up
        self._on_down = on_down
        self._connection: FilteredConnection | None = None
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._dropped: asyncio.Future[None] | None = None

    @property
    def is_missing(self) -> bool:
        return self._wanted.is_set() and not self._up.is_set()

    async def connection(self, patience: timedelta) -> "FilteredConnection":
        """The connection, once it is up; raises BrokerUnavailable when that takes too long. The first call
        lets `run` connect."""
        self._wanted.set()
        with translated():
            async with asyncio.timeout(patience.total_seconds()):
                await self._up.wait()
        if self._connection is None:
            raise BrokerUnavailable("RabbitMQ: connection lost")
        return self._connection

    def drop(self) -> None:
        """Give this connection up without a word to the broker, and make a new one."""
        if self._dropped is not None and not self._dropped.done():
            self._dropped.set_result(None)

    async def run(self) -> None:
        """Connect, and again whenever that ends, until cancelled."""
        await self._wanted.wait()
        pause, said = FIRST_PAUSE, ""
        while True:
            began = self._clock.monotonic()
            try:
                await self._serve()
                log.warning("broker_connection_lost", connection=self._name)
                said = ""
                if self._clock.monotonic() - began > LONGEST_PAUSE.total_seconds():
                    pause = FIRST_PAUSE
            except BrokerUnavailable as exc:
                if str(exc) != said:
                    said = str(exc)
                    log.warning("broker_unreachable", connection=self._name, reason=said)
            except Misconfigured:
                raise
            except Exception:
                # Giving up here would be for ever.
                log.exception("broker_connection_failed", connection=self._name)
            await self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _serve(self) -> None:
        """Returns when a connection that was up is lost; raises if it could not be set up."""
        single = SingleConnection(self._url)
        self._dropped = asyncio.get_running_loop().create_future()
        orderly = False
        try:
            connection = await single.connection(CONNECT_TIMEOUT)
            ends = await self._set_up(connection)
            self._connection = connection
            self._up.set()
            log.info("broker_connected", connection=self._name)
            orderly = True
            await asyncio.wait(
                {connection.closing, self._dropped, *ends}, return_when=asyncio.FIRST_COMPLETED
            )
            orderly = not self._dropped.done()
        finally:
            self._connection = None
            self._up.clear()
            self._on_down()
            await single.end(orderly)


class FilteredConnection(Connection):
    """A connection of the library whose incoming frames pass our filter first. Both are set before the
    library writes its first byte."""

    frames: FrameFilter
    transport: asyncio.WriteTransport


class SingleConnection(TransportFactory):
    """A connection that is made once, and ends with what it was made for. `url` is a checked one.

    It makes the library's transport and keeps it: the library itself cannot let go of a dead peer."""

    def __init__(self, url: str) -> None:
        self._writer: asyncio.StreamWriter | None = None
        self._connection = FilteredConnection(url, transport_factory=self)

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = url.scheme == "amqps"
        factory = TLSTransportFactory() if secure else TCPTransportFactory()
        reader, self._writer = await factory.create(url, **kwargs)
        self._connection.transport = transport = self._writer.transport
        library = transport.get_protocol()
        if not isinstance(library, asyncio.Protocol):
            raise TypeError("the connection has an unknown kind of protocol")
        self._connection.frames = FrameFilter(library)
        transport.set_protocol(self._connection.frames)
        return reader, self._writer

    async def connection(self, patience: timedelta) -> FilteredConnection:
        """Connect; raises BrokerUnavailable when that fails or takes too long."""
        # The library waits for an orderly end of the transport even when the peer is frozen, so the
        # transport is cut shortly before the timeout that ends the wait.
        limit = patience.total_seconds()
        cut = asyncio.get_running_loop().call_later(limit, self.drop)
        try:
            with translated():
                async with asyncio.timeout(limit + 1):
                    await self._connection.connect()
        finally:
            cut.cancel()
        return self._connection

    @property
    def was_made(self) -> bool:
        """The broker answered to it, if only once."""
        return self._connection.connected.is_set()

    def drop(self) -> None:
        """Cut it without a word to the broker."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def end(self, orderly: bool) -> None:
        """Close within CLOSE_TIMEOUT (twice that for a frozen broker); never raises but for our own
        cancellation."""
        if not orderly:
            self.drop()
        # What waits on the connection gets an ordinary error this way, not a cancellation.
        reason = BrokerUnavailable("RabbitMQ: connection closed")
        for _ in range(2):
            with suppress(BrokerUnavailable), translated():
                async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                    await self._connection.close(reason)
            self.drop()
