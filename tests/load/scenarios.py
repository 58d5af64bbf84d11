"""What devices and API clients do in a benchmark: four scenarios, each timed on a number of connections.

Everything is signed before a clock starts. A server is known by its addresses, so that any one that speaks
MicroMDM's API can be measured.
"""

import asyncio
import re
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Protocol, TypeVar

from tests.support.harness.device import ApiClient, SimulatedDevice, command_uuid_of
from tests.support.harness.http1 import Answer, Connection
from tests.support.harness.identities import FleetAuthority

Item = TypeVar("Item")

SCENARIOS = {
    "enroll": "enroll (Authenticate, TokenUpdate)",
    "idle": "Idle, empty queue",
    "queue": "queue a command",
    "drain": "drain (Idle, command, Acknowledged)",
}
CONNECTIONS = 32
_QUEUED = re.compile(rb'"command_uuid"\s*:\s*"([^"]+)"')


@dataclass(frozen=True)
class Address:
    """A server's host and port, with TLS or without."""

    port: int
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None


class Server(Protocol):
    """What a load needs of a server."""

    authority: FleetAuthority
    api_key: str

    @property
    def checkin(self) -> Address: ...

    @property
    def commands(self) -> Address: ...

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far of each process of the server; empty where they are unknown."""

    def load_cpu(self) -> float:
        """Seconds of CPU so far of the driver and of its receiver of webhooks."""


@dataclass(frozen=True)
class Size:
    """How much load; the defaults are those of docs/performance.md."""

    devices: int = 1000
    idles: int = 6000
    commands_per_device: int = 8


@dataclass(frozen=True)
class Sample:
    """One scenario at one number of connections: CPU in microseconds of a request, latencies in ms."""

    count: int
    rate: float
    p50: float
    p99: float
    cpu: Mapping[str, float] = field(default_factory=dict)
    load_cpu: float = 0.0

    def __str__(self) -> str:
        used = ", ".join(f"{name} {each:.0f}" for name, each in self.cpu.items())
        return (
            f"{self.rate:6.0f}/s, p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms; "
            f"µs of CPU: {used}; load {self.load_cpu:.0f}"
        )


class Load:
    """The scenarios of a fleet of new devices, in their order."""

    def __init__(self, server: Server, size: Size, connections: int = CONNECTIONS) -> None:
        self._server = server
        self._size = size
        self._connections = connections
        self.events = 0
        """Events that the messages so far must have caused."""
        host = server.checkin.host
        # A device has one request under way at a time.
        count = max(size.devices, connections)
        self._devices = [SimulatedDevice(server.authority.issue(), host=host) for _ in range(count)]
        self._enrolls = [(d.authenticate(), d.token_update()) for d in self._devices]
        self._idles = [(device, device.idle()) for device in self._devices]
        self._queued: dict[str, SimulatedDevice] = {}

    async def enroll(self) -> Sample:
        async def one(connection: Connection, requests: tuple[bytes, bytes]) -> int:
            for request in requests:
                expect(await connection.send(request), 200)
            return 2

        return await self._told(self._enrolls, one)

    async def idle(self) -> Sample:
        async def one(connection: Connection, idle: tuple[SimulatedDevice, bytes]) -> int:
            expect(await connection.send(idle[1]), 200)
            return 1

        repeated = self._idles * (self._size.idles // len(self._idles) + 1)
        return await self._told(repeated[: self._size.idles], one)

    async def queue(self) -> Sample:
        client = ApiClient(self._server.api_key, self._server.commands.host)
        requests = [
            (device, client.enqueue(device.udid, f"{device.udid}-{number}"))
            for number in range(self._size.commands_per_device)
            for device in self._devices
        ]

        async def one(connection: Connection, request: tuple[SimulatedDevice, bytes]) -> int:
            device, post = request
            queued = _QUEUED.search(expect(await connection.send(post), 201))
            if queued is None:
                raise SystemExit("an answer to a command has no command_uuid")
            self._queued[queued[1].decode()] = device
            return 1

        return await self._timed(requests, one, self._server.commands)

    async def drain(self) -> Sample:
        # Only now, since a server may give commands names of its own.
        reports = {uuid: device.report(uuid) for uuid, device in self._queued.items()}

        async def one(connection: Connection, idle: tuple[SimulatedDevice, bytes]) -> int:
            answer, requests = await connection.send(idle[1]), 1
            while (uuid := command_uuid_of(expect(answer, 200))) is not None:
                report = reports.pop(uuid, None) or idle[0].report(uuid)
                answer, requests = await connection.send(report), requests + 1
            return requests

        sample = await self._told(self._idles, one)
        if reports:
            raise SystemExit(f"{len(reports)} of {len(self._queued)} commands were not handed out")
        return sample

    async def _told(
        self, items: Sequence[Item], one: Callable[[Connection, Item], Awaitable[int]]
    ) -> Sample:
        """Messages of devices, each of which becomes an event."""
        sample = await self._timed(items, one, self._server.checkin)
        self.events += sample.count
        return sample

    async def _timed(
        self,
        items: Sequence[Item],
        one: Callable[[Connection, Item], Awaitable[int]],
        address: Address,
    ) -> Sample:
        times: list[float] = []
        cpu, load_cpu, start = self._server.cpu(), self._server.load_cpu(), time.perf_counter()
        count = await spread(items, one, address, self._connections, times)
        seconds = time.perf_counter() - start
        cuts = quantiles(times, n=100)
        return Sample(
            count,
            count / seconds,
            cuts[49] * 1e3,
            cuts[98] * 1e3,
            {name: (now - cpu[name]) / count * 1e6 for name, now in self._server.cpu().items()},
            (self._server.load_cpu() - load_cpu) / count * 1e6,
        )


def expect(answer: Answer, status: int) -> bytes:
    """The body of an answer of this status; anything else ends the benchmark."""
    if answer.status != status:
        raise SystemExit(f"expected {status}, got {answer}")
    return answer.body


class _Timed(Connection):
    """Writes down how long each answer took, in seconds."""

    def __init__(self, address: Address, times: list[float]) -> None:
        super().__init__(address.host, address.port, tls=address.tls)
        self._times = times

    async def send(self, request: bytes) -> Answer:
        start = time.perf_counter()
        answer = await super().send(request)
        self._times.append(time.perf_counter() - start)
        return answer


async def spread(
    items: Sequence[Item],
    one: Callable[[Connection, Item], Awaitable[int]],
    address: Address,
    connections: int = CONNECTIONS,
    times: list[float] | None = None,
) -> int:
    """Work through the items over all connections; the sum of what `one` counts. `times` takes how long
    each answer took."""
    left = iter(items)
    done = 0

    async def worker() -> None:
        nonlocal done
        async with _Timed(address, [] if times is None else times) as connection:
            for item in left:
                counted = await one(connection, item)
                done += counted

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(worker())
    return done


def say(line: str) -> None:
    """A result."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(line: str) -> None:
    """Progress, which is no part of the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
