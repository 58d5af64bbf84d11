"""One listening address: uvicorn without its own ideas about signals, logs and processes.

The socket is bound when the listener is made, so that a port in use shows before anything else
starts, and listens from `open` on.
"""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from shared.domain.errors import Misconfigured
from shared.settings import Address
from shared.web.server.connections import Connections
from shared.web.server.handshakes import TlsAcceptor
from shared.web.server.protocol import BoundedHttpProtocol, TakeWhole

KEEP_ALIVE = timedelta(seconds=75)


@dataclass(frozen=True, slots=True)
class Tls:
    certificate: Path
    key: Path


def check_tls(tls: Tls | None) -> None:
    """Raises Misconfigured when certificate and key cannot serve TLS."""
    if tls is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key)
    except ssl.SSLError as exc:
        of_another = exc.reason == "KEY_VALUES_MISMATCH"
        problem = "the key is another certificate's" if of_another else "expected both in PEM"
        raise Misconfigured(f"MDM_TLS_CERT: cannot be used with MDM_TLS_KEY: {problem}") from None
    except OSError as exc:
        raise Misconfigured(f"MDM_TLS_CERT, MDM_TLS_KEY: cannot be read ({exc.strerror})") from None


def bind(address: Address, variable: str) -> list[socket.socket]:
    """Sockets bound to an address; Misconfigured names the setting when it is not free."""
    if address.host:
        return [_bound(address.host, address.port, variable)]
    sockets = [_bound("0.0.0.0", address.port, variable)]  # noqa: S104 - the operator asked for it
    if socket.has_ipv6:
        with contextlib.suppress(Misconfigured):  # a kernel may have IPv6 switched off
            sockets.append(_bound("::", sockets[0].getsockname()[1], variable))
    return sockets


def _bound(host: str, port: int, variable: str) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise Misconfigured(f"{variable}: cannot listen on {host}: {exc.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(where)
    except OSError as exc:
        bound.close()
        raise Misconfigured(
            f"{variable}: cannot listen on {Address(host, port)}: {exc.strerror}; "
            "end what listens there, or give another port"
        ) from None
    return bound


class Listener:
    """Serves an ASGI app on bound sockets, from `open` until `close`."""

    def __init__(
        self, app: ASGIApp, sockets: list[socket.socket], most: int, tls: Tls | None = None
    ) -> None:
        """`most`: connections at once."""
        taken: dict[tuple[str, bytes], TakeWhole] = {}
        self.whole = taken
        """Takes from `app` requests that came in one piece, by method and raw path."""

        connections = Connections(most)

        class ProtocolOfListener(BoundedHttpProtocol):
            crowd = connections
            whole = taken

        self._sockets = sockets
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=ProtocolOfListener,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # an address is only ever that of the peer
                timeout_keep_alive=int(KEEP_ALIVE.total_seconds()),
                ssl_certfile=tls.certificate if tls else None,
                ssl_keyfile=tls.key if tls else None,
            )
        )
        self._connections = connections
        self._protocol = ProtocolOfListener
        self._acceptor: TlsAcceptor | None = None
        self.is_open = False

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Take connections."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        if config.ssl is None:
            await self._server.startup(sockets=self._sockets)
        else:
            await self._server.startup(sockets=[])
            self._acceptor = TlsAcceptor(config.ssl, self._connections, self._made)
            self._acceptor.open(self._sockets, config.backlog)
        self.is_open = True

    def _made(self) -> BoundedHttpProtocol:
        server = self._server
        return self._protocol(server.config, server.server_state, server.lifespan.state)

    async def keep_date(self) -> None:
        """Keep the Date header true, until cancelled."""
        while True:
            await self._server.on_tick(0)
            await asyncio.sleep(1)

    async def close(self, within: timedelta) -> None:
        """Take no more connections, let requests under way end, but no longer than `within`."""
        if not self.is_open:
            for each in self._sockets:
                each.close()
            return
        self.is_open = False
        if self._acceptor is not None:
            self._acceptor.close()
        self._server.config.timeout_graceful_shutdown = max(1, int(within.total_seconds()))
        await self._server.shutdown(sockets=self._sockets)
