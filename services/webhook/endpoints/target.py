"""Where the requests to a subscription go, and what is the same in all of them.

Promises: MDM_WEBHOOK_URL gets MicroMDM's headers and no others; a subscription that was made by API gets its
own, its credentials and signatures; no repr shows a credential.
"""

import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from yarl import URL

from services.webhook.endpoints.connecting import Host
from services.webhook.endpoints.http_client import HttpTarget
from services.webhook.endpoints.signing import RequestSigner
from shared.domain.subscription import Subscription
from shared.network.address_guard import AddressGuard
from shared.network.connection_failures import Peer
from shared.network.urls import read_url
from shared.web.version import USER_AGENT

CONTENT_TYPE = "application/json; charset=utf-8"

_CONFIGURED = Peer("MDM_WEBHOOK_URL", "MDM_WEBHOOK_CA")
_BY_API = Peer("the webhook's url", "the webhook's ca", ca="its CA")


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """`signer`: None for MDM_WEBHOOK_URL."""

    subscription: Subscription
    http: HttpTarget
    signer: RequestSigner | None = field(repr=False)

    @property
    def peer(self) -> Peer:
        """How the reasons of failures name its settings."""
        peer = _CONFIGURED if self.subscription.is_configured else _BY_API
        return peer if self.http.host.server_name else replace(peer, tls="https://")


def unusable(subscription: Subscription) -> str:
    """The reason where `target_of` raises ValueError."""
    if subscription.is_configured:
        return f"{_CONFIGURED.url} cannot be used"
    return f"{_BY_API.url} or secrets cannot be used"


def target_of(
    subscription: Subscription,
    trusted: Callable[[Subscription], ssl.SSLContext],
    guard: AddressGuard,
    longest: timedelta,
) -> RequestTarget:
    """`trusted`: TLS for a subscription without CAs of its own; `guard`: for all but MDM_WEBHOOK_URL,
    which is the operator's word; `longest`: the most that its timeout may be.

    Raises ValueError for what is no URL of HTTP, a header that would be two, and CAs or secrets that cannot
    be read."""
    url = read_url(subscription.url)
    host, port = url.raw_host, url.port
    if not host or port is None:
        raise ValueError("no URL of HTTP")
    lines = [f"POST {url.raw_path_qs} HTTP/1.1"]
    for name, value in _headers(subscription, url):
        if not f"{name}{value}".isprintable():
            raise ValueError("a header is no line of text")
        lines.append(f"{name}: {value}")
    tls = None
    if url.scheme == "https":
        tls = _tls(subscription.ca) if subscription.ca else trusted(subscription)
    server_name = host.rstrip(".") if tls else None
    http = HttpTarget(
        Host(host, port, server_name, None if subscription.is_configured else guard),
        "\r\n".join([*lines, ""]).encode("ascii"),
        tls,
        min(subscription.limits.timeout, longest),
    )
    signer = None if subscription.is_configured else RequestSigner(subscription.secrets)
    return RequestTarget(subscription, http, signer)


def _tls(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, TypeError) as exc:
        raise ValueError("no CA certificates in PEM") from exc


def _headers(subscription: Subscription, url: URL) -> Iterator[tuple[str, str]]:
    yield "Host", url.host_port_subcomponent or ""
    yield "User-Agent", USER_AGENT
    yield "Content-Type", CONTENT_TYPE
    yield "Accept", "*/*"
    if subscription.secrets.authorization:
        yield "Authorization", subscription.secrets.authorization
    elif url.user is not None or url.password is not None:
        credentials = f"{url.user or ''}:{url.password or ''}"
        yield "Authorization", f"Basic {b64encode(credentials.encode()).decode()}"
    yield from subscription.secrets.headers.items()
