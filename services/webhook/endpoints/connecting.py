"""Connects to a host by its name: to whichever of its addresses takes us.

Promises: a guarded host is connected to at addresses that the guard let pass, as one look-up returned them; a
name is looked up once for all who wait for it, and for `_KEPT_FOR`, unless no address was good; the addresses
take turns; one that is silent or has a bad certificate does not hold up the others.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import timedelta
from socket import AI_ADDRCONFIG, SOCK_STREAM
from typing import Any, TypeVar

from aiohappyeyeballs import start_connection

from shared.network.address_guard import AddressGuard

P = TypeVar("P", bound=asyncio.Protocol)

_KEPT_FOR = timedelta(seconds=10)
_ATTEMPT_DELAY = timedelta(milliseconds=250)  # of RFC 8305


class AddressRefused(OSError):
    """Its text says why nothing may connect to any address of the host."""


class Host:
    """One host and port. `server_name`: what its certificate must be for, None: no TLS."""

    def __init__(
        self, name: str, port: int, server_name: str | None, guard: AddressGuard | None = None
    ) -> None:
        self.name, self.port, self.server_name = name, port, server_name
        self.reached = ""
        """The address that a connection was made to last."""
        self._guard = guard
        self._look_up: asyncio.Task[list[Any]] | None = None
        self._until = float("-inf")

    async def connect(self, new: Callable[[], P], tls: ssl.SSLContext | None) -> P:
        """Raises OSError (AddressRefused by the guard), RuntimeError (by uvloop, for some addresses), and
        UnicodeError where the name cannot be one."""
        delay, name = _ATTEMPT_DELAY.total_seconds(), self.server_name
        try:
            left = self._allowed(await self._addresses())
            while True:
                link = await start_connection(left, happy_eyeballs_delay=delay)
                self.reached = link.getpeername()[0]
                try:
                    _, connection = await asyncio.get_running_loop().create_connection(
                        new, sock=link, ssl=tls, server_hostname=name
                    )
                    return connection
                except OSError:  # it speaks no TLS, or its certificate is refused
                    left = left[1:]
                    if not left:
                        raise
        except (OSError, RuntimeError):
            self._until = float("-inf")
            raise

    def _allowed(self, addresses: list[Any]) -> list[Any]:
        if self._guard is None:
            return addresses
        found = [(each, self._guard.refusal(each[4][0])) for each in addresses]
        allowed = [each for each, refusal in found if refusal is None]
        if not allowed:
            raise AddressRefused(f"{found[0][0][4][0]} {found[0][1]}")
        return allowed

    async def _addresses(self) -> list[Any]:
        """As getaddrinfo returns them; each time another one is the first, so that all are used."""
        loop = asyncio.get_running_loop()
        look_up = self._look_up
        if look_up is None or (look_up.done() and loop.time() >= self._until):
            is_literal = ":" in self.name or not self.name.strip("0123456789.")
            flags = 0 if is_literal else AI_ADDRCONFIG
            look_up = self._look_up = loop.create_task(
                loop.getaddrinfo(self.name, self.port, type=SOCK_STREAM, flags=flags)
            )
            look_up.add_done_callback(_retrieve)
            self._until = loop.time() + _KEPT_FOR.total_seconds()
        addresses = await asyncio.shield(look_up)  # it goes on for the others if one is cancelled
        found = addresses.copy()
        addresses.append(addresses.pop(0))
        return found


def _retrieve(look_up: asyncio.Task[list[Any]]) -> None:
    """So that the loop logs no error that nobody waited for."""
    if not look_up.cancelled():
        look_up.exception()
