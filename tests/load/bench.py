"""`make bench`: how fast the whole system serves devices and API clients, and what it weighs.

RabbitMQ, the store, each service in a process of its own (or, with `--all`, one process with the
in-process broker), a webhook receiver, and this driver share the machine. All messages are signed
before a clock starts. Every number is of a bounded run; the last lines are figures, not verdicts.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvloop

from tests.harness.device import ApiClient, SimulatedDevice, command_uuid_of
from tests.harness.http1 import Connection
from tests.harness.identities import FleetAuthority
from tests.harness.processes import free_port, spawn
from tests.harness.servers import Rabbit, Store
from tests.harness.system import API_KEY, ServiceProcess, System, cpu_seconds
from tests.load import bench_convert, bench_fleet, bench_scep

Item = TypeVar("Item")

CONNECTIONS = 32
SETTLE_WITHIN = 60.0


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


class Machine:
    """The processes under test, and what they cost."""

    def __init__(self, folder: Path, *, is_all: bool, driver: str) -> None:
        self.authority = FleetAuthority()
        self._folder = folder
        (folder / "ca.pem").write_bytes(self.authority.pem)
        sink_port = free_port()
        self._sink_url = f"http://127.0.0.1:{sink_port}"
        command = [sys.executable, "-m", "tests.harness.sink", "--port", str(sink_port)]
        self._sink = spawn(
            [*command, "--record", "/dev/null"], {"PATH": "/usr/bin"}, folder / "sink.log"
        )
        settings = {
            "MDM_DEVICE_CA": str(folder / "ca.pem"),
            "MDM_WEBHOOK_URL": f"{self._sink_url}/webhook",
            "MDM_MONGO_DRIVER": driver,
        }
        self.servers: dict[str, Rabbit | Store] = {}
        self.services: dict[str, ServiceProcess] = {}
        if is_all:
            self.services["all"] = ServiceProcess("all", folder / "all", settings)
            self.services["all"].start()
            self.ports = Ports(self.services["all"].port, self.services["all"].port)
            return
        self.servers = {"rabbitmq": Rabbit(folder / "rabbit"), "store": Store(folder / "store")}
        for server in self.servers.values():
            server.start()
        settings["MDM_AMQP_URL"] = self.servers["rabbitmq"].url
        settings["MDM_MONGODB_URL"] = self.servers["store"].url
        system = System(folder, settings)
        system.start()
        self.services = {name: replicas[0] for name, replicas in system.services.items()}
        self.ports = Ports(self.services["checkin"].port, self.services["commands"].port)

    def delivered(self) -> int:
        """Different events that the receiver has taken."""
        with urllib.request.urlopen(f"{self._sink_url}/stats", timeout=5) as answer:
            return int(json.loads(answer.read())["events"])

    def memory(self) -> dict[str, float]:
        return {name: process.resident_megabytes() for name, process in self.services.items()}

    def cpu(self) -> dict[str, float]:
        processes = {**self.services, **self.servers}
        return {name: cpu_seconds(process.pid) for name, process in processes.items()}

    def close(self) -> None:
        for process in (*self.services.values(), *self.servers.values()):
            process.close()
        self._sink.kill()
        self._sink.wait()


@contextmanager
def machine(*, is_all: bool, driver: str) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="macromdm-bench-"))
    running = Machine(folder, is_all=is_all, driver=driver)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


async def measure(running: Machine, size: Size) -> dict[str, float]:
    """All phases in their order: requests per second of each, and when the last event arrived."""
    load = Load(running.ports, running.authority, size)
    figures: dict[str, float] = {}
    at_rest = running.memory()
    for phase in (load.enroll, load.idle, load.queue, load.drain):
        cpu, busy, start = running.cpu(), busy_seconds(), time.perf_counter()
        done = await phase()
        seconds = time.perf_counter() - start
        busy = (busy_seconds() - busy) / seconds / (os.cpu_count() or 1)
        figures[phase.__name__] = done / seconds
        used = ", ".join(
            f"{name} {(after - cpu[name]) / done * 1e6:.0f}"
            for name, after in running.cpu().items()
        )
        say(
            f"{phase.__name__:8} {done:6} requests {done / seconds:7.0f}/s   "
            f"machine {busy:3.0%} busy; CPU us each: {used}"
        )
    figures["events after the end, s"] = await delivered_after(running, load.events)
    for name, megabytes in running.memory().items():
        say(f"memory   {name}: {at_rest[name]:.0f} MB at rest, {megabytes:.0f} MB after the load")
    return figures


def busy_seconds() -> float:
    """What all processors of the machine have worked so far."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


async def delivered_after(running: Machine, events: int) -> float:
    start = time.perf_counter()
    while (delivered := running.delivered()) < events:
        if time.perf_counter() - start > SETTLE_WITHIN:
            raise SystemExit(f"{events - delivered} of {events} events were not delivered")
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - start
    say(f"events   all {events} delivered {seconds:.1f} s after the last request")
    return seconds


def bare_route() -> float | None:
    """What a bare FastAPI route that reads its body answers to wrk here: the machine's yardstick."""
    if shutil.which("wrk") is None:
        say("wrk is not installed, so there is no yardstick: apt-get install wrk")
        return None
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="macromdm-bench-"))
    command = [sys.executable, "-m", "tests.load.bare_route", str(port)]
    server = spawn(command, {"PATH": "/usr/bin"}, folder / "bare.log")
    try:
        time.sleep(2)
        script = Path(__file__).with_name("put.lua")
        load = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d5", "-s", str(script)]
        done = subprocess.run(
            [*load, f"http://127.0.0.1:{port}/"], capture_output=True, timeout=30, check=True
        )
        [line] = [x for x in done.stdout.decode().splitlines() if x.startswith("Requests/sec")]
        return float(line.split(":")[1])
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="the four services in one process")
    parser.add_argument("--driver", choices=["motor", "pymongo"], default="motor")
    parser.add_argument("--devices", type=int, default=Size.devices)
    parser.add_argument("--scep", action="store_true", help="SCEP enrollments, and nothing else")
    given = parser.parse_args()
    if given.scep:
        bench_scep.main()
        return
    bench_convert.main()
    bench_fleet.main()
    yardstick = bare_route()
    with (
        machine(is_all=given.all, driver=given.driver) as running,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(measure(running, Size(devices=given.devices)))
    if yardstick is not None:
        say(f"bare FastAPI route on this machine: {yardstick:.0f}/s")
        for name in ("enroll", "idle", "queue", "drain"):
            say(f"  {name}: {figures[name] / yardstick:.3f} of it")


if __name__ == "__main__":
    main()
