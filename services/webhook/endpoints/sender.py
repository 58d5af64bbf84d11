"""Posts one event to one subscriber and says what became of it.

Promises: 2xx, and nothing else, is a delivery; never longer than the timeout, but for a look at a
certificate that was refused; redirects are not followed; at most a few KB of the answer are read;
credentials in the URL become Basic authentication and never show in an error; a failure is an outcome,
not an exception.
"""

import ssl
from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol, Self

from yarl import URL

from services.webhook.endpoints.connecting import Host
from services.webhook.endpoints.http_client import (
    CannotConnect,
    Closed,
    HttpAnswer,
    HttpClient,
    HttpFailure,
    HttpTarget,
)
from services.webhook.endpoints.limited_log import LimitedLog
from services.webhook.endpoints.request import EventRequest
from shared.domain.subscription import Subscription
from shared.network.connection_failures import Peer, closed
from shared.network.peer_certificates import PeerCertificates
from shared.ports.clock import Clock
from shared.web.version import USER_AGENT

TIMEOUT = timedelta(seconds=30)
CONTENT_TYPE = "application/json; charset=utf-8"
_SHOWN = 40  # characters of a header that cannot be read

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


DELIVERED = AttemptOutcome()


class EventSender(Protocol):
    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome: ...


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
        self._client: HttpClient | None = None
        self._targets: dict[str, HttpTarget] = {}

    async def __aenter__(self) -> Self:
        self._client = HttpClient(self._tls, self._timeout)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        if self._client is None:
            raise RuntimeError("the sender is not open")
        try:
            target = self._targets.get(subscription.url) or self._target(subscription.url)
            answer = await self._client.post(target, request.events[0].body)
        except TimeoutError:
            return AttemptOutcome(f"no answer within {self._timeout.total_seconds():g} s")
        except HttpFailure as exc:
            return AttemptOutcome(await self._reason(exc, target))
        except ValueError:
            return AttemptOutcome(f"{_WITH_TLS.url} cannot be used")
        if 200 <= answer.status < 300:
            return DELIVERED
        asked = self._asked(subscription, answer)
        return AttemptOutcome(f"answered {answer.status}", status=answer.status, asked=asked)

    async def _reason(self, error: HttpFailure, target: HttpTarget) -> str:
        host = target.host
        peer = _PLAIN if host.server_name is None else _WITH_TLS
        found = await self._peers.reason_of(error, peer, (host.name, host.port))
        if isinstance(error, CannotConnect):
            return f"cannot connect: {found or 'no details'}"
        if isinstance(error, Closed):
            return found or closed(peer)
        return "the answer is no HTTP, or breaks off"

    def _asked(self, subscription: Subscription, answer: HttpAnswer) -> timedelta:
        value = answer.retry_after
        if value is None or answer.status not in BUSY:
            return timedelta()
        try:
            return wait_asked(value, self._clock.now())
        except ValueError:
            self._unreadable.warning(subscription=subscription.id, value=value[:_SHOWN])
            return timedelta()

    def _target(self, url: str) -> HttpTarget:
        """Raises ValueError for what is no URL of HTTP."""
        parsed = URL(url)
        host, port = parsed.raw_host, parsed.port
        if not host or port is None:
            raise ValueError("no URL of HTTP")
        lines = [
            f"POST {parsed.raw_path_qs} HTTP/1.1",
            f"Host: {parsed.host_port_subcomponent}",
            f"User-Agent: {USER_AGENT}",
            f"Content-Type: {CONTENT_TYPE}",
            "Accept: */*",
        ]
        if parsed.user is not None or parsed.password is not None:
            credentials = f"{parsed.user or ''}:{parsed.password or ''}"
            lines.append(f"Authorization: Basic {b64encode(credentials.encode()).decode()}")
        server_name = host.rstrip(".") if parsed.scheme == "https" else None
        head = "\r\n".join([*lines, "Content-Length: "]).encode("ascii")
        self._targets[url] = target = HttpTarget(Host(host, port, server_name), head)
        return target


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
