"""Pushes to APNs over HTTP/2, one connection per client certificate.

Promises: every request ends in one of the outcomes of `services.push.send.outcomes` within the timeout; after
a connection failed (GOAWAY, reset, timeout, refused) nothing new is sent on it; while APNs cannot be
reached at all, pushes fail at once instead of hammering it; a certificate that is not used any more
lets its pushes under way end.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx
import structlog
from h2.exceptions import H2Error

from services.push.send.outcomes import Outcome, Rejected, Unanswered, Unreachable, classify
from shared.network.connection_failures import Peer, reason_of
from shared.network.peer_certificates import PeerCertificates
from shared.ports.clock import Clock
from shared.web.version import USER_AGENT

log = structlog.get_logger()

STREAMS = 100
"""Requests in flight on one connection."""

TIMEOUT = timedelta(seconds=15)
ANSWER_LIMIT = 4096
"""Bytes of an answer that are read; APNs sends less than a hundred."""

FAILURES_IN_A_ROW = 3
"""So many connections that failed without a single answer make us wait."""

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=1)
CLOSE_TIMEOUT = timedelta(seconds=2)

_PEER = Peer("MDM_APNS_URL", "MDM_APNS_CA")

BROKE_OFF = "the connection broke off, or its other end speaks no HTTP/2"

# What httpx raises, and what slips through it when a connection ends under many streams.
BROKEN = (httpx.HTTPError, H2Error, OSError, KeyError)


@dataclass(frozen=True, slots=True)
class Push:
    topic: str
    token: bytes = field(repr=False)
    magic: str = field(repr=False)
    expires_at: datetime


class _Connection:
    """An httpx client with one connection; closed when it was replaced and its last user is gone."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._users = 0
        self._replaced = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        self._users += 1
        try:
            yield self._client
        finally:
            self._users -= 1
            await self._close_if_unused()

    async def replace(self) -> None:
        self._replaced = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._replaced and not self._users and not self._client.is_closed:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                    await self._client.aclose()
            except (TimeoutError, *BROKEN) as exc:
                log.info("apns_close_failed", reason=reason_of(exc, _PEER) or BROKE_OFF)


class _Line:
    """All pushes with one certificate: the connection of the moment, and whether APNs can be reached."""

    def __init__(self, context: ssl.SSLContext, timeout: timedelta, clock: Clock) -> None:
        self.streams = asyncio.Semaphore(STREAMS)
        self._context = context
        self._timeout = timeout
        self._clock = clock
        self.connection = self._connect()
        self.failures = 0
        self.closed_until = 0.0
        self.reason = ""
        """Of the last connection that failed."""
        self.is_closed = False

    async def failed(self, connection: _Connection, reason: str) -> None:
        """Count once per connection, however many streams went down with it."""
        if connection is not self.connection:
            return
        self.connection = self._connect()
        self.failures += 1
        self.reason = reason
        over = self.failures - FAILURES_IN_A_ROW
        if over >= 0:
            wait = min(FIRST_WAIT * 2 ** min(over, 10), LONGEST_WAIT)
            self.closed_until = self._clock.monotonic() + wait.total_seconds()
            log.warning("apns_unreachable", reason=reason, seconds=wait.total_seconds())
        await connection.replace()

    async def close(self) -> None:
        self.is_closed = True
        await self.connection.replace()

    def _connect(self) -> _Connection:
        seconds = self._timeout.total_seconds()
        # No read timeout: it would end all streams of the connection, not only the slow one. Connecting
        # ends before the push does: a handshake that is cancelled leaves its socket open.
        client = httpx.AsyncClient(
            verify=self._context,
            http1=False,
            http2=True,
            headers={"User-Agent": USER_AGENT},
            trust_env=False,
            timeout=httpx.Timeout(seconds, connect=seconds * 0.9, read=None),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=3600),
        )
        return _Connection(client)


class Apns:
    """Sends pushes with the certificates that it was given; `contexts` by any name of theirs."""

    def __init__(
        self,
        url: str,
        contexts: Mapping[str, ssl.SSLContext],
        clock: Clock,
        *,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        self._timeout = timeout
        self._url = url.rstrip("/")
        self._peers = PeerCertificates(clock)
        self._clock = clock
        self._lines = {name: self._line(context) for name, context in contexts.items()}

    async def use(self, contexts: Mapping[str, ssl.SSLContext]) -> None:
        """From now on only these; what is known by its name already goes on with its connection."""
        before = self._lines
        self._lines = {n: before.get(n) or self._line(context) for n, context in contexts.items()}
        for name in before.keys() - self._lines.keys():
            await before[name].close()

    async def push(self, push: Push, certificate: str) -> Outcome:
        """One attempt, with the certificate of that name."""
        line = self._lines.get(certificate)
        if line is None:
            return Unanswered("the push certificate was replaced")
        async with line.streams:
            if line.is_closed:
                return Unanswered("the push certificate was replaced")
            if self._clock.monotonic() < line.closed_until:
                return Unreachable(f"APNs cannot be reached: {line.reason}")
            connection = line.connection
            try:
                async with (
                    asyncio.timeout(self._timeout.total_seconds()),
                    connection.client() as to,
                ):
                    outcome = await self._post(to, push)
            except httpx.InvalidURL:
                return Rejected("MDM_APNS_URL cannot be used")
            except (TimeoutError, *BROKEN) as exc:
                url = httpx.URL(self._url)
                address = url.host, url.port or 443
                reason = await self._peers.reason_of(exc, _PEER, address) or BROKE_OFF
                await line.failed(connection, reason)
                return Unanswered(reason)
        line.failures = 0
        return outcome

    async def close(self) -> None:
        for line in self._lines.values():
            await line.close()

    async def _post(self, client: httpx.AsyncClient, push: Push) -> Outcome:
        request = client.stream(
            "POST",
            f"{self._url}/3/device/{push.token.hex()}",
            headers={
                "apns-push-type": "mdm",
                "apns-topic": push.topic,
                "apns-expiration": str(int(push.expires_at.timestamp())),
                "apns-priority": "10",
            },
            json={"mdm": push.magic},
        )
        async with request as response:
            body = b""
            async for chunk in response.aiter_bytes(ANSWER_LIMIT):
                body += chunk
                if len(body) >= ANSWER_LIMIT:
                    break
            return classify(response.status_code, response.headers, body)

    def _line(self, context: ssl.SSLContext) -> _Line:
        return _Line(context, self._timeout, self._clock)
