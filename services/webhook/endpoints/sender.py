"""Posts one request to one subscriber and says what became of it.

Promises: 2xx, and nothing else, is a delivery; never longer than the timeout, but for a look at a
certificate that was refused; redirects are not followed; at most a few KB of the answer are read;
credentials never show in an error; a failure is an outcome, not an exception; a subscription that was
changed is posted to as it is now, on connections of its own.
"""

import ssl
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol, Self

from services.webhook.endpoints.connecting import AddressRefused
from services.webhook.endpoints.http_client import (
    CannotConnect,
    Closed,
    HttpAnswer,
    HttpClient,
    HttpFailure,
)
from services.webhook.endpoints.limited_log import LimitedLog
from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.target import RequestTarget, target_of, unusable
from services.webhook.forms.form import is_heavy, shaped
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.subscription import BodyForm, Subscription
from shared.network.address_guard import AddressGuard
from shared.network.connection_failures import closed
from shared.network.peer_certificates import PeerCertificates
from shared.network.trusted_cas import client_tls
from shared.ports.clock import Clock

TIMEOUT = timedelta(seconds=30)
MOST_TARGETS = 256
"""More than there may be subscriptions: what was removed is forgotten some time."""
_UNBOUNDED = 2**31  # the requests under way are bounded already
_SHOWN = 40  # characters of a header that cannot be read

GONE = 410
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
"""Answers whose `Retry-After` counts."""
LONGEST_WAIT = timedelta(hours=1)
"""So far ahead a subscriber may put its next attempt."""
_ABOUT_THE_RECEIVER = frozenset({401, 403, 404, 408, GONE, 425, 429})


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The outcome of an attempt. `reason` is safe to store and show; None: delivered.

    `counts` is False when it uses up no attempt of the event: the subscriber was too busy to be asked at
    all, or is paused. `status` is that of the answer, if there was one; `asked` is how long the subscriber
    asks to be left alone; `answer` is how its text begins, which may hold anything: it is kept for the
    history, and shown nowhere else. `latency`: until the answer, or the failure. `is_shared`: the request
    held other events too."""

    reason: str | None = None
    counts: bool = True
    status: int | None = None
    asked: timedelta = timedelta()
    answer: str | None = field(default=None, repr=False, compare=False)
    latency: timedelta | None = field(default=None, compare=False)
    is_shared: bool = False

    @property
    def delivered(self) -> bool:
        return self.reason is None

    @property
    def is_about_event(self) -> bool:
        """True if the subscriber may have refused this event, and not all of them."""
        status = self.status or 0
        is_refusal = 400 <= status < 500 and status not in _ABOUT_THE_RECEIVER
        return not self.is_shared and (status == 500 or is_refusal)


class EventSender(Protocol):
    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome: ...


class HttpSender:
    """Keeps connections open and uses them again; an async context manager."""

    def __init__(
        self,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        timeout: timedelta = TIMEOUT,
        guard: AddressGuard | None = None,
    ) -> None:
        """`tls` is for MDM_WEBHOOK_URL; by default, and for the others, the system's CAs are trusted. No
        attempt takes longer than `timeout`. `guard`: for the others; by default one that allows nothing."""
        self._clock = clock
        self._timeout = timeout
        self._tls = tls
        self._guard = guard or AddressGuard()
        self._system: ssl.SSLContext | None = None
        self._peers = PeerCertificates(clock)
        self._unreadable = LimitedLog("retry_after_ignored", clock)
        self._heavy = HeavyWork("bodies", threads=1, most_waiting=_UNBOUNDED)
        self._client: HttpClient | None = None
        self._targets: dict[str, RequestTarget] = {}

    async def __aenter__(self) -> Self:
        self._client = HttpClient()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        if self._client is None:
            raise RuntimeError("the sender is not open")
        began = self._clock.monotonic()
        try:
            target = self._target(subscription)
            body = await self._body(subscription.form, [event.body for event in request.events])
            headers = b""
            if target.signer is not None:
                headers = target.signer.headers(request, body, self._clock.now())
            answer = await self._client.post(target.http, headers, body)
            outcome = self._answered(subscription, answer)
        except TimeoutError:
            seconds = target.http.timeout.total_seconds()
            outcome = AttemptOutcome(f"no answer within {seconds:g} s")
        except HttpFailure as exc:
            outcome = AttemptOutcome(await self._reason(exc, target))
        except ValueError:
            outcome = AttemptOutcome(unusable(subscription))
        return replace(outcome, latency=timedelta(seconds=self._clock.monotonic() - began))

    async def _body(self, form: BodyForm, events: list[bytes]) -> bytes:
        if is_heavy(form, events):
            return await self._heavy.do(shaped, form, events)
        return shaped(form, events)

    def _answered(self, subscription: Subscription, answer: HttpAnswer) -> AttemptOutcome:
        if 200 <= answer.status < 300:
            return AttemptOutcome()
        reason, asked = f"answered {answer.status}", self._asked(subscription, answer)
        if answer.status in _REDIRECTS:
            reason += ": redirects are not followed"
        return AttemptOutcome(reason, status=answer.status, asked=asked, answer=answer.text)

    async def _reason(self, error: HttpFailure, target: RequestTarget) -> str:
        if isinstance(error.__cause__, AddressRefused):
            return f"cannot connect: {error.__cause__}"
        host, peer = target.http.host, target.peer
        address = (host.reached, host.port)
        found = await self._peers.reason_of(error, peer, address, host.server_name)
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

    def _target(self, subscription: Subscription) -> RequestTarget:
        """Raises ValueError where the subscription cannot be posted to."""
        former = self._targets.get(subscription.id)
        if former is not None and (
            former.subscription is subscription or former.subscription == subscription
        ):
            return former
        target = target_of(subscription, self._trusted, self._guard, self._timeout)
        if former is None and len(self._targets) == MOST_TARGETS:
            former = self._targets.pop(next(iter(self._targets)))
        if former is not None:
            former.http.retire()
        self._targets[subscription.id] = target
        return target

    def _trusted(self, subscription: Subscription) -> ssl.SSLContext:
        """For one without CAs of its own. To load the system's takes 50 ms."""
        if subscription.is_configured and self._tls is not None:
            return self._tls
        self._system = self._system or client_tls("SSL_CERT_FILE", None)
        return self._system


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
