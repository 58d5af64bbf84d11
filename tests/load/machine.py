"""The system under a benchmark's load, and what it costs."""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import uvloop

from tests.load.figures import Figures
from tests.load.scenarios import (
    CONNECTIONS,
    SCENARIOS,
    Address,
    Load,
    Sample,
    Server,
    Size,
    show,
)
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.processes import free_port, spawn, wait_for
from tests.support.harness.servers import Rabbit, Store
from tests.support.harness.system import (
    API_KEY,
    SECRET_KEY,
    ServiceProcess,
    System,
    cpu_seconds,
)

SETTLE_WITHIN = 60.0
YARDSTICK_SECONDS = 4


@dataclass(frozen=True)
class Build:
    """What is measured: by default this checkout, as four processes."""

    is_all: bool = False
    driver: str = "motor"
    checkout: Path | None = None

    @property
    def title(self) -> str:
        return "one process" if self.is_all else "separate services"


class Receiver:
    """A process that takes webhooks and counts them."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.url = f"http://{host}:{port}"
        command = [sys.executable, "-m", "tests.support.harness.sink", "--record", "/dev/null"]
        self._process = spawn(
            [*command, "--host", host, "--port", str(port)], {"PATH": "/usr/bin"}, Path("/dev/null")
        )
        wait_for(lambda: self._counted() is not None)

    def _counted(self) -> int | None:
        try:
            with urllib.request.urlopen(f"{self.url}/stats", timeout=5) as answer:
                return int(json.loads(answer.read())["events"])
        except urllib.error.URLError:
            return None

    def events(self) -> int:
        """Different events that it has taken."""
        return self._counted() or 0

    def cpu(self) -> float:
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class UnderTest(Server, Protocol):
    """What a whole benchmark needs of a server; `receiver` is None where events are not counted."""

    start_seconds: float | None

    @property
    def receiver(self) -> Receiver | None: ...

    def memory(self) -> dict[str, float]:
        """Megabytes of each process; empty where they are unknown."""


class Machine:
    """The processes under test, and what they cost."""

    start_seconds: float | None
    checkin: Address
    commands: Address

    def __init__(self, folder: Path, build: Build) -> None:
        self.api_key = API_KEY
        self.authority = FleetAuthority()
        (folder / "ca.pem").write_bytes(self.authority.pem)
        self.receiver = Receiver(free_port())
        settings = {
            "MDM_DEVICE_CA": str(folder / "ca.pem"),
            "MDM_WEBHOOK_URL": f"{self.receiver.url}/webhook",
            "MDM_MONGO_DRIVER": build.driver,
            "MDM_SECRET_KEY": SECRET_KEY,
        }
        self.servers: dict[str, Rabbit | Store] = {}
        self.services: dict[str, ServiceProcess] = {}
        if build.is_all:
            process = ServiceProcess("all", folder / "all", settings, build.checkout)
            self.services["all"] = process
            self.start_seconds = _seconds(process.start)
            self.checkin = self.commands = Address(process.port)
            return
        self.servers = {"rabbitmq": Rabbit(folder / "rabbit"), "store": Store(folder / "store")}
        for server in self.servers.values():
            server.start()
        settings["MDM_AMQP_URL"] = self.servers["rabbitmq"].url
        settings["MDM_MONGODB_URL"] = self.servers["store"].url
        system = System(folder, settings, checkout=build.checkout)
        self.start_seconds = _seconds(system.start)
        self.services = {name: replicas[0] for name, replicas in system.services.items()}
        self.checkin = Address(self.services["checkin"].port)
        self.commands = Address(self.services["commands"].port)

    def memory(self) -> dict[str, float]:
        return {name: process.resident_megabytes() for name, process in self.services.items()}

    def cpu(self) -> dict[str, float]:
        processes = {**self.services, **self.servers}
        return {name: cpu_seconds(process.pid) for name, process in processes.items()}

    def load_cpu(self) -> float:
        return time.process_time() + self.receiver.cpu()

    def close(self) -> None:
        for process in (*self.services.values(), *self.servers.values(), self.receiver):
            process.close()


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def machine(build: Build, folder: Path | None = None) -> Iterator[Machine]:
    """The build on an empty store, or on that of a folder, which stays."""
    with tempfile.TemporaryDirectory(prefix="macromdm-bench-") as empty:
        running = Machine(folder or Path(empty), build)
        try:
            yield running
        finally:
            running.close()


def bare_route() -> float | None:
    """Requests per second that wrk gets from a bare FastAPI route that reads its body: the yardstick."""
    if shutil.which("wrk") is None:
        show("wrk is not installed, so there is no yardstick: apt-get install wrk")
        return None
    port = free_port()
    command = [sys.executable, "-m", "tests.load.bare_route", str(port)]
    server = spawn(command, {"PATH": "/usr/bin"}, Path("/dev/null"))
    try:
        time.sleep(2)
        script = Path(__file__).with_name("put.lua")
        load = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{YARDSTICK_SECONDS}", "-s", str(script)]
        done = subprocess.run(
            [*load, f"http://127.0.0.1:{port}/"], capture_output=True, timeout=30, check=True
        )
        [line] = [x for x in done.stdout.decode().splitlines() if x.startswith("Requests/sec")]
        return float(line.split(":")[1])
    finally:
        server.kill()
        server.wait()


async def measure(
    running: UnderTest, size: Size, connections: Sequence[int] = (CONNECTIONS,)
) -> Figures:
    """All scenarios on each number of connections, with a fleet of its own each time."""
    at_rest = running.memory()
    events = 0 if running.receiver is None else running.receiver.events()
    figures = Figures(start_seconds=running.start_seconds, memory_at_rest=at_rest)
    for number in connections:
        load = Load(running, size, number)
        figures.samples[number] = await scenarios(load, number)
        events += load.events
        if running.receiver is not None:
            await delivered(running.receiver, events)
    return replace(figures, memory=running.memory())


async def scenarios(load: Load, connections: int) -> dict[str, Sample]:
    found = {}
    for name in SCENARIOS:
        found[name] = sample = await getattr(load, name)()
        show(f"{connections:4} connections: {name:8} {sample}")
    return found


def measured(
    build: Build,
    size: Size,
    connections: Sequence[int] = (CONNECTIONS,),
    folder: Path | None = None,
) -> Figures:
    """One run from start to end."""
    with machine(build, folder) as running:
        return replace(uvloop.run(measure(running, size, connections)), title=build.title)


async def delivered(receiver: Receiver, events: int) -> None:
    """Wait until so many events have arrived."""
    start = time.perf_counter()
    while (found := receiver.events()) < events:
        if time.perf_counter() - start > SETTLE_WITHIN:
            raise SystemExit(f"{events - found} of {events} events were not delivered")
        await asyncio.sleep(0.05)
    show(
        f"all {events} events delivered {time.perf_counter() - start:.1f} s after the last request"
    )
