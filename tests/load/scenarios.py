"""What devices and API clients do in a benchmark: the scenarios, each on the same connections."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.support.harness.device import ApiClient, SimulatedDevice, command_uuid_of
from tests.support.harness.http1 import Connection
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.system import API_KEY

Item = TypeVar("Item")

CONNECTIONS = 32


@dataclass
class Ports:
    """Where the driver sends what."""

    checkin: int
    commands: int


@dataclass(frozen=True)
class Size:
    """How much load; the defaults are those of docs/performance.md."""

    devices: int = 1000
    idles: int = 6000
    commands_per_device: int = 8


class Load:
    """The phases, each on the same connections."""

    def __init__(self, ports: Ports, authority: FleetAuthority, size: Size) -> None:
        self._ports = ports
        self._size = size
        self._api = ApiClient(API_KEY)
        self.events = 0
        say(f"signing the load of {size.devices} devices")
        self._devices = [SimulatedDevice(authority.issue()) for _ in range(size.devices)]
        self._uuids = {
            device.udid: [f"{device.udid}-{n}" for n in range(size.commands_per_device)]
            for device in self._devices
        }
        self._enrolls = [(d.authenticate(), d.token_update()) for d in self._devices]
        self._idles = [device.idle() for device in self._devices]
        self._reports = {
            uuid: device.report(uuid)
            for device in self._devices
            for uuid in self._uuids[device.udid]
        }
        self._posts = [
            self._api.enqueue(device.udid, self._uuids[device.udid][n])
            for n in range(size.commands_per_device)
            for device in self._devices
        ]

    async def enroll(self) -> int:
        async def one(connection: Connection, requests: tuple[bytes, bytes]) -> int:
            for request in requests:
                expect(await connection.send(request), 200)
            return 2

        done = await spread(self._enrolls, one, self._ports.checkin)
        self.events += done
        return done

    async def idle(self) -> int:
        async def one(connection: Connection, request: bytes) -> int:
            expect(await connection.send(request), 200)
            return 1

        repeated = (self._idles * (self._size.idles // len(self._idles) + 1))[: self._size.idles]
        done = await spread(repeated, one, self._ports.checkin)
        self.events += done
        return done

    async def queue(self) -> int:
        async def one(connection: Connection, request: bytes) -> int:
            expect(await connection.send(request), 201)
            return 1

        return await spread(self._posts, one, self._ports.commands)

    async def drain(self) -> int:
        async def one(connection: Connection, request: bytes) -> int:
            answer, requests = await connection.send(request), 1
            while (uuid := command_uuid_of(expect(answer, 200))) is not None:
                answer, requests = await connection.send(self._reports[uuid]), requests + 1
            if requests != self._size.commands_per_device + 1:
                raise SystemExit(f"a device got {requests - 1} commands")
            return requests

        done = await spread(self._idles, one, self._ports.checkin)
        self.events += done
        return done


def expect(answer: object, status: int) -> bytes:
    found = getattr(answer, "status", None)
    if found != status:
        raise SystemExit(f"expected {status}, got {answer}")
    return bytes(getattr(answer, "body", b""))


async def spread(
    items: Sequence[Item], one: Callable[[Connection, Item], Awaitable[int]], port: int
) -> int:
    """Work through the items over all connections; the sum of what `one` counts."""
    left = iter(items)
    done = 0

    async def worker() -> None:
        nonlocal done
        async with Connection("127.0.0.1", port) as connection:
            for item in left:
                counted = await one(connection, item)
                done += counted

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(worker())
    return done


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
