"""Servers on the loopback to which no useful connection can be made, each for a reason of its own.

Promise: a client that trusts `Trust.file` alone meets at each `Kind` what its value says, whatever it wants
to speak.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.harness.processes import free_port

DAY = timedelta(days=1)
OTHER_NAMES = ("hooks.example.org", "*.example.net")
UNREADABLE_NAMES = ("an EDI party",)
_EDI_PARTY = bytes.fromhex("300aa508a1060c0461626364")
"""A GeneralName that OpenSSL reads and `cryptography` does not."""


class Kind(StrEnum):
    UNTRUSTED = "of a CA that nobody trusts"
    SELF_SIGNED = "with a certificate of its own"
    UNREADABLE = "with a certificate of its own that not every library reads"
    EXPIRED = "with a certificate whose time is over"
    EARLY = "with a certificate whose time is to come"
    OTHER_NAME = "with a certificate for other names"
    STRANGE = "that speaks TLS, and nothing that the client knows over it"
    NO_TLS = "that answers in plain HTTP"
    REFUSED = "that is not there"
    SILENT = "that takes connections and says nothing"
    CLOSES = "that hangs up when it hears something"


class Trust:
    """Two CAs, the first of which is in `file`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / "trusted.pem"
        self._ours, self._others = _Ca("Our CA"), _Ca("CA of others")
        self.file.write_bytes(self._ours.certificate.public_bytes(Encoding.PEM))

    def server(self, kind: Kind) -> ssl.SSLContext | None:
        """What a server of this kind serves TLS with."""
        now = datetime.now(UTC)
        ca = self._others if kind is Kind.UNTRUSTED else self._ours
        match kind:
            case Kind.SELF_SIGNED:
                return self._context(_Ca("selfmade", ("127.0.0.1",)))
            case Kind.UNREADABLE:
                return self._context(_Ca("odd", UNREADABLE_NAMES))
            case Kind.EXPIRED:
                return self._context(ca.issue(("127.0.0.1",), now - 9 * DAY, now - DAY))
            case Kind.EARLY:
                return self._context(ca.issue(("127.0.0.1",), now + DAY, now + 9 * DAY))
            case Kind.OTHER_NAME:
                return self._context(ca.issue(OTHER_NAMES, now - DAY, now + 9 * DAY))
            case Kind.UNTRUSTED | Kind.STRANGE:
                return self._context(ca.issue(("127.0.0.1",), now - DAY, now + 9 * DAY))
        return None

    def _context(self, of: "_Certified") -> ssl.SSLContext:
        file = self._folder / "server.pem"
        key = of.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(key + of.certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@dataclass
class BadServer:
    """One of them. `links` are its connections so far, `heard` is what came to it inside of TLS."""

    port: int
    heard: bytes = b""
    is_ending: bool = False
    links: list[asyncio.Transport] = field(default_factory=list)


@asynccontextmanager
async def bad_server(kind: Kind, trust: Trust) -> AsyncIterator[BadServer]:
    """One server, until the block ends."""
    server = BadServer(free_port())
    if kind is Kind.REFUSED:
        yield server
        return
    context = trust.server(kind)
    with socket.create_server(("127.0.0.1", server.port)) as listener:
        listener.setblocking(False)
        taking = asyncio.create_task(_take(listener, server, lambda: _Says(kind, context, server)))
        yield server
        server.is_ending = True
        with socket.create_connection(("127.0.0.1", server.port)):
            await taking
    for link in server.links:
        link.abort()
    await asyncio.sleep(0)


async def _take(
    listener: socket.socket, server: BadServer, protocol: Callable[[], asyncio.Protocol]
) -> None:
    """Unlike asyncio's own server it leaves no connection open that comes while it ends."""
    loop = asyncio.get_running_loop()
    while not server.is_ending:
        taken, _ = await loop.sock_accept(listener)
        await loop.connect_accepted_socket(protocol, taken)


class _Says(asyncio.Protocol):
    """One connection. It serves TLS itself, on buffers, so that each of them counts."""

    def __init__(self, kind: Kind, context: ssl.SSLContext | None, server: BadServer) -> None:
        self._kind = kind
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True) if context else None
        self._server = server
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.links.append(self._transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._kind is Kind.NO_TLS:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        elif self._kind is Kind.CLOSES:
            self._transport.abort()
        elif self._tls is not None:
            self._in.write(data)
            self._shake(self._tls, self._transport)

    def _shake(self, tls: ssl.SSLObject, transport: asyncio.Transport) -> None:
        try:
            tls.do_handshake()
            said = tls.read(1)
            self._server.heard += said
            tls.write(b"I speak something else.\r\n")
        except ssl.SSLWantReadError:
            said = b""
        except ssl.SSLError:
            transport.write(self._out.read())
            transport.close()
            return
        transport.write(self._out.read())
        if said:
            transport.close()


@dataclass
class _Certified:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class _Ca(_Certified):
    def __init__(self, name: str, names: tuple[str, ...] = ()) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        is_ca = x509.BasicConstraints(True, None)
        builder = self._builder(self._name, self.key, names, (now - DAY, now + 99 * DAY))
        self.certificate = builder.add_extension(is_ca, True).sign(self.key, hashes.SHA256())

    def issue(self, names: tuple[str, ...], start: datetime, end: datetime) -> _Certified:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
        builder = self._builder(subject, key, names, (start, end))
        return _Certified(key, builder.sign(self.key, hashes.SHA256()))

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[str, ...],
        time: tuple[datetime, datetime],
    ) -> x509.CertificateBuilder:
        ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder(self._name, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(time[0])
            .not_valid_after(time[1])
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(ours, False)
        )
        if names == UNREADABLE_NAMES:
            names_oid = x509.SubjectAlternativeName.oid
            return builder.add_extension(x509.UnrecognizedExtension(names_oid, _EDI_PARTY), False)
        if names:
            found = [_general(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(found), False)
        return builder


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
