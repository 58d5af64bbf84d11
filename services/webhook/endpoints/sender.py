"""Posts one event to one subscriber and says what became of it.

Promises: 2xx, and nothing else, is a delivery; never longer than the timeout, but for a look at a
certificate that was refused; redirects are not followed; at most a few KB of the answer are read;
credentials in the URL become Basic authentication and never show in an error; a failure is an outcome,
not an exception.
"""

import asyncio
import ssl
from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol, Self

import aiohttp
from yarl import URL

from services.webhook.endpoints.limited_log import LimitedLog
from shared.domain.subscription import Subscription
from shared.network.connection_failures import Peer, closed
from shared.network.peer_certificates import PeerCertificates
from shared.ports.clock import Clock
from shared.web.version import USER_AGENT

TIMEOUT = timedelta(seconds=30)
CONTENT_TYPE = "application/json; charset=utf-8"
_ANSWER_LIMIT = 4096
_SHOWN = 40  # characters of a header that cannot be read
_ANSWER_PATIENCE = timedelta(seconds=2)
"""For the rest of an answer whose status is known."""
_KEEPALIVE = timedelta(seconds=4)
"""Below the idle timeout of common servers, so that we rarely post on a connection that is closing."""

GONE = 410
BUSY = frozenset({429, 503})
"""Answers whose `Retry-After` counts."""
LONGEST_WAIT = timedelta(hours=1)
"""So far ahead a subscriber may put its next attempt."""
_ABOUT_THE_RECEIVER = frozenset({401, 403, 404, 408, GONE, 425, 429})

_WITH_TLS = Peer("MDM_WEBHOOK_URL", "MDM_WEBHOOK_CA")
_PLAIN = replace(_WITH_TLS, tls="https://")


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The outcome of an attempt. `reason` is safe to store and show; None: delivered.

    `counts` is False when it uses up no attempt of the event: the subscriber was too busy to be asked at
    all, or is paused. `status` is that of the answer, if there was one; `asked` is how long the subscriber
    asks to be left alone."""

    reason: str | None = None
    counts: bool = True
    status: int | None = None
    asked: timedelta = timedelta()

    @property
    def delivered(self) -> bool:
        return self.reason is None

    @property
    def is_about_event(self) -> bool:
        """True if the subscriber may have refused this event, and not all of them."""
        status = self.status or 0
        return status == 500 or (400 <= status < 500 and status not in _ABOUT_THE_RECEIVER)


class EventSender(Protocol):
    async def send(self, subscription: Subscription, body: bytes) -> AttemptOutcome: ...


class HttpSender:
    """Keeps connections open and uses them again; an async context manager."""

    def __init__(
        self, clock: Clock, tls: ssl.SSLContext | None = None, timeout: timedelta = TIMEOUT
    ) -> None:
        """`tls` is for subscribers with https; by default it trusts the system's CAs."""
        self._clock = clock
        self._timeout = timeout
        self._tls = tls
        self._peers = PeerCertificates(clock)
        self._unreadable = LimitedLog("retry_after_ignored", clock)
        self._session: aiohttp.ClientSession | None = None
        self._targets: dict[str, tuple[URL, dict[str, str]]] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEPALIVE.total_seconds(), ssl=self._tls or True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout.total_seconds()),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": USER_AGENT, "Content-Type": CONTENT_TYPE},
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, subscription: Subscription, body: bytes) -> AttemptOutcome:
        if self._session is None:
            raise RuntimeError("the sender is not open")
        url, headers = self._target(subscription.url)
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                await _finish(response)
                if 200 <= response.status < 300:
                    return AttemptOutcome()
                return AttemptOutcome(
                    f"answered {response.status}",
                    status=response.status,
                    asked=self._asked(subscription, response),
                )
        except TimeoutError:
            return AttemptOutcome(f"no answer within {self._timeout.total_seconds():g} s")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return AttemptOutcome(await self._reason(exc, url))

    async def _reason(self, error: Exception, url: URL) -> str:
        target = _WITH_TLS if url.scheme == "https" else _PLAIN
        found = await self._peers.reason_of(error, target, (url.host or "", url.port or 443))
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"cannot connect: {found or 'no details'}"
        if found:
            return found
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return closed(target)
        if isinstance(error, aiohttp.InvalidURL):
            return f"{target.url} cannot be used"
        return "the answer is no HTTP, or breaks off"

    def _asked(self, subscription: Subscription, response: aiohttp.ClientResponse) -> timedelta:
        value = response.headers.get("Retry-After")
        if value is None or response.status not in BUSY:
            return timedelta()
        try:
            return wait_asked(value, self._clock.now())
        except ValueError:
            self._unreadable.warning(subscription=subscription.id, value=value[:_SHOWN])
            return timedelta()

    def _target(self, url: str) -> tuple[URL, dict[str, str]]:
        """The URL without credentials, and the header that carries them."""
        if url not in self._targets:
            parsed = URL(url)
            headers = {}
            if parsed.user is not None or parsed.password is not None:
                credentials = f"{parsed.user or ''}:{parsed.password or ''}"
                headers["Authorization"] = f"Basic {b64encode(credentials.encode()).decode()}"
            self._targets[url] = (parsed.with_user(None), headers)
        return self._targets[url]


def wait_asked(value: str, now: datetime) -> timedelta:
    """The wait of a `Retry-After` (seconds, or a date), up to `LONGEST_WAIT`. Raises ValueError."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(timedelta(seconds=min(int(value), 2**31)), LONGEST_WAIT)
    try:
        date = parsedate_to_datetime(value)
        left = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    except (TypeError, IndexError, OverflowError) as exc:
        raise ValueError("no date of HTTP") from exc
    return min(max(left, timedelta()), LONGEST_WAIT)


async def _finish(response: aiohttp.ClientResponse) -> None:
    """Read a short answer to its end, so that its connection can be used again. Nothing here makes a delivery
    fail: the status decides."""
    try:
        async with asyncio.timeout(_ANSWER_PATIENCE.total_seconds()):
            left = _ANSWER_LIMIT
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)
    except (TimeoutError, aiohttp.ClientError, OSError):
        left = 0
    if left <= 0:
        response.close()
