"""The address of the client of a request.

Promise: X-Forwarded-For counts only where a trusted proxy gave it, and only as far as trusted
proxies wrote it; from other peers it is ignored.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

Network = IPv4Network | IPv6Network
UNKNOWN = "unknown"


class ClientAddresses:
    def __init__(self, trusted_proxies: Sequence[Network] = ()) -> None:
        self._trusted_proxies = tuple(trusted_proxies)

    def address(self, scope: Scope) -> str:
        """Of the client, else of the nearest proxy that we do not know; `unknown` behind a Unix
        socket."""
        peer: str = scope["client"][0] if scope.get("client") else ""
        if not self._trusted_proxies or not self._trusts(peer):
            return peer or UNKNOWN
        # Each proxy adds the address it was called from on the right.
        forwarded = Headers(scope=scope).getlist("x-forwarded-for")
        for given in reversed(",".join(forwarded).split(",")):
            hop = _parsed(given.strip())
            if hop is None:
                break
            peer = str(hop)
            if not self._trusts(peer):
                break
        return peer

    def _trusts(self, peer: str) -> bool:
        address = _parsed(peer)
        return address is not None and any(address in each for each in self._trusted_proxies)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def source_of(address: str) -> str:
    """The address by which a client is counted. An IPv6 /64 is one customer's and counts as one."""
    parsed = _parsed(address) if ":" in address else None
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed.packed[:8] + bytes(8), 64)))
    return address[:64]
