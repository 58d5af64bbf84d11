"""Checks the receiver of a subscription when it is registered: that its host has an address to connect to.

Every attempt checks the address again, since a name may lead elsewhere later."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from shared.domain.errors import Unavailable, unfit
from shared.network.address_guard import AddressGuard
from shared.network.urls import read_url

LookUp = Callable[[str, int], Awaitable[list[str]]]

_DEADLINE = timedelta(seconds=10)


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError, and UnicodeError where it cannot be a name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True, slots=True)
class Receivers:
    guard: AddressGuard
    look_up: LookUp = look_up

    async def check(self, url: str) -> None:
        """Raises BadRequest, which names the URL, and Unavailable where no name server answers."""
        parsed = read_url(url)
        addresses = await self._addresses(parsed.raw_host or "", parsed.port or 0)
        refusals = {address: self.guard.refusal(address) for address in addresses}
        if all(refusals.values()):
            reasons = "; ".join(f"{address} {reason}" for address, reason in refusals.items())
            raise unfit("url", f"a host with an address that may be connected to: {reasons}")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            async with asyncio.timeout(_DEADLINE.total_seconds()):
                return await self.look_up(host, port)
        except socket.gaierror as exc:
            if exc.errno != socket.EAI_AGAIN:
                raise unfit("url", f"a host that has an address ({exc.strerror})") from None
            raise Unavailable("url: no name server answers") from exc
        except TimeoutError as exc:
            raise Unavailable("url: no name server answers") from exc
        except (OSError, UnicodeError):
            raise unfit("url", "a host that has an address") from None
