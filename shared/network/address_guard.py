"""The addresses that a subscription's receiver may have: those of the internet, and the private ones that an
operator lists.

An API client names the receiver, so the server must not become its way into the network around the server.
Every form of an IPv4 address inside an IPv6 one counts as that IPv4 address.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTING = "MDM_WEBHOOK_ALLOWED_NETWORKS"
METADATA = frozenset(
    map(
        ip_address,
        (
            *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
            *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42"),
        ),
    )
)
"""Where clouds hand credentials to their machines."""


def _networks(*names: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, names))


_PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
_REFUSED = (
    ("a loopback address", _networks("127.0.0.0/8", "::1/128")),
    ("an unspecified address", _networks("0.0.0.0/8", "::/128")),
    ("a link-local address", _networks("169.254.0.0/16", "fe80::/10")),
    ("a multicast address", _networks("224.0.0.0/4", "ff00::/8")),
)
_RESERVED = _networks(
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "3fff::/20"),
)
"""Of IANA's registries of special purposes, besides those above."""
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_LAST_32_BITS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """`allowed`: private networks to connect to all the same."""

    allowed: tuple[Network, ...] = ()
    is_loopback_allowed: bool = False

    def refusal(self, address: str) -> str | None:
        """Why nothing may connect to this address, as getaddrinfo returns it, in words that follow it. None:
        something may. Raises ValueError where it is no IP address."""
        return next(filter(None, map(self._refusal, _meanings(ip_address(address)))), None)

    def _refusal(self, address: Address) -> str | None:
        if address in METADATA:
            return "is an address of a cloud's metadata service"
        for kind, networks in _REFUSED:
            if any(address in network for network in networks):
                is_allowed = self.is_loopback_allowed and address.is_loopback
                return None if is_allowed else f"is {kind}"
        if any(address in network for network in _PRIVATE):
            is_allowed = any(address in network for network in self.allowed)
            return None if is_allowed else f"is in a private network that {SETTING} does not list"
        is_elsewhere = address.version == 6 and address not in _GLOBAL_IPV6
        if is_elsewhere or any(address in network for network in _RESERVED):
            return "is a reserved address"
        return None


def _meanings(address: Address) -> Iterator[Address]:
    """The IPv4 addresses inside an IPv6 address, or else itself."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped:
        yield address.ipv4_mapped
    elif address.sixtofour:
        yield address.sixtofour
    elif address.teredo:
        yield from address.teredo
    elif address in _NAT64:
        yield IPv4Address(int(address) & _LAST_32_BITS)
    else:
        yield IPv6Address(int(address))  # without a zone
