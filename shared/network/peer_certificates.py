"""The certificate that a server shows, for the reason of a failure: `ssl` does not say whose it refused.

Promises: it is only looked at, after it was refused, by a handshake of its own that shows no certificate of
ours, and nothing is sent; at most once a minute for each server, within seconds; a failure means that
nothing is known.
"""

import asyncio
import ssl
from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID

from shared.network.connection_failures import Peer, Shown, is_about_certificate, reason_of
from shared.ports.clock import Clock

PATIENCE = timedelta(seconds=3)
KEPT = timedelta(minutes=1)

_MOST_NAMES = 5
_LONGEST_NAME = 128


class PeerCertificates:
    """The certificates that a few servers show."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: dict[tuple[str, int, str], tuple[float, Shown | None]] = {}

    async def reason_of(
        self,
        error: BaseException,
        peer: Peer,
        address: tuple[str, int],
        server_name: str | None = None,
    ) -> str | None:
        """The reason of a failure to reach this host and port, as `shared.network.connection_failures` has
        it. `server_name`: the name that the server was asked for, if not this host."""
        if not is_about_certificate(error):
            return reason_of(error, peer)
        return reason_of(error, peer, await self._look_up(*address, server_name or address[0]))

    async def _look_up(self, host: str, port: int, name: str) -> Shown | None:
        async with self._lock:
            now = self._clock.monotonic()
            for server, (at, _) in list(self._known.items()):
                if now - at >= KEPT.total_seconds():
                    del self._known[server]
            server = (host, port, name)
            if server not in self._known:
                self._known[server] = now, await _shown(host, port, name)
            return self._known[server][1]


async def _shown(host: str, port: int, name: str) -> Shown | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's CAs: 50 ms to load
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
            return read(certificate)
    except Exception:  # noqa: BLE001 - bytes from outside; a look must not become what failed
        return None


def read(certificate: bytes) -> Shown:
    """A certificate in DER. Raises what `cryptography` does for one that cannot be read."""
    read = x509.load_der_x509_certificate(certificate)
    return Shown(
        subject=_text(read.subject),
        issuer=None if read.issuer == read.subject else _text(read.issuer),
        names=_names(read)[:_MOST_NAMES],
        not_before=read.not_valid_before_utc,
        not_after=read.not_valid_after_utc,
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [*names.get_values_for_type(x509.DNSName)]
    found += map(str, names.get_values_for_type(x509.IPAddress))
    return tuple(map(_bounded, found))


def _text(name: x509.Name) -> str:
    """Its common name, or all of it."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _bounded(str(common[0].value) if common else name.rfc4514_string()) or "nobody"


def _bounded(text: str) -> str:
    return "".join(each for each in text if each.isprintable())[:_LONGEST_NAME]
