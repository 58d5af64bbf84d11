"""Names that a test makes up."""

import asyncio
import socket
from typing import Any

import pytest


class Names:
    """Answers look-ups of the running loop from a table."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, table: dict[str, list[str]], seconds: float = 0
    ) -> None:
        """A look-up takes `seconds`."""
        self.asked: list[str] = []
        self._table = table
        self._seconds = seconds
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up)

    async def _look_up(self, host: str | bytes, port: int, **_: object) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if not name.strip("0123456789."):  # uvloop looks up what it connects to
            self._table[name] = [name]
        else:
            self.asked.append(name)
            await asyncio.sleep(self._seconds)
        if name not in self._table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self._table[name]
        ]
