"""The system under a benchmark's load, and what it costs."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.load.scenarios import Load, Ports, Size, say
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.processes import free_port, spawn
from tests.support.harness.servers import Rabbit, Store
from tests.support.harness.system import ServiceProcess, System, cpu_seconds

SETTLE_WITHIN = 60.0


@dataclass(frozen=True)
class Build:
    """What is measured: by default this checkout, as four processes."""

    is_all: bool = False
    driver: str = "motor"
    checkout: Path | None = None


class Machine:
    """The processes under test, and what they cost."""

    def __init__(self, folder: Path, build: Build) -> None:
        self.authority = FleetAuthority()
        self._folder = folder
        (folder / "ca.pem").write_bytes(self.authority.pem)
        sink_port = free_port()
        self._sink_url = f"http://127.0.0.1:{sink_port}"
        command = [sys.executable, "-m", "tests.support.harness.sink", "--port", str(sink_port)]
        self._sink = spawn(
            [*command, "--record", "/dev/null"], {"PATH": "/usr/bin"}, folder / "sink.log"
        )
        settings = {
            "MDM_DEVICE_CA": str(folder / "ca.pem"),
            "MDM_WEBHOOK_URL": f"{self._sink_url}/webhook",
            "MDM_MONGO_DRIVER": build.driver,
        }
        self.servers: dict[str, Rabbit | Store] = {}
        self.services: dict[str, ServiceProcess] = {}
        if build.is_all:
            process = ServiceProcess("all", folder / "all", settings, build.checkout)
            self.services["all"] = process
            self.start_seconds = _seconds(process.start)
            self.ports = Ports(self.services["all"].port, self.services["all"].port)
            return
        self.servers = {"rabbitmq": Rabbit(folder / "rabbit"), "store": Store(folder / "store")}
        for server in self.servers.values():
            server.start()
        settings["MDM_AMQP_URL"] = self.servers["rabbitmq"].url
        settings["MDM_MONGODB_URL"] = self.servers["store"].url
        system = System(folder, settings, checkout=build.checkout)
        self.start_seconds = _seconds(system.start)
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


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def machine(build: Build) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="macromdm-bench-"))
    running = Machine(folder, build)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Figures:
    """Of one run, by phase: requests per second, and microseconds of CPU per request of all processes."""

    rates: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    start_seconds: float = 0.0
    megabytes_at_rest: float = 0.0
    megabytes: float = 0.0


async def measure(running: Machine, size: Size) -> Figures:
    """All phases in their order."""
    load = Load(running.ports, running.authority, size)
    at_rest = running.memory()
    figures = Figures(start_seconds=running.start_seconds, megabytes_at_rest=sum(at_rest.values()))
    for phase in (load.enroll, load.idle, load.queue, load.drain):
        cpu, busy, start = running.cpu(), busy_seconds(), time.perf_counter()
        done = await phase()
        seconds = time.perf_counter() - start
        busy = (busy_seconds() - busy) / seconds / (os.cpu_count() or 1)
        each = {name: (now - cpu[name]) / done * 1e6 for name, now in running.cpu().items()}
        figures.rates[phase.__name__] = done / seconds
        figures.cpu[phase.__name__] = sum(each.values())
        used = ", ".join(f"{name} {microseconds:.0f}" for name, microseconds in each.items())
        say(
            f"{phase.__name__:8} {done:6} requests {done / seconds:7.0f}/s   "
            f"machine {busy:3.0%} busy; CPU us each: {used}"
        )
    await delivered_after(running, load.events)
    memory = running.memory()
    figures.megabytes = sum(memory.values())
    say(f"start    {running.start_seconds:.1f} s")
    for name, megabytes in memory.items():
        say(f"memory   {name}: {at_rest[name]:.0f} MB at rest, {megabytes:.0f} MB after the load")
    return figures


def measured(build: Build, size: Size) -> Figures:
    """One run from start to end."""
    with (
        machine(build) as running,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(measure(running, size))


def busy_seconds() -> float:
    """What all processors of the machine have worked so far."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


async def delivered_after(running: Machine, events: int) -> None:
    start = time.perf_counter()
    while (delivered := running.delivered()) < events:
        if time.perf_counter() - start > SETTLE_WITHIN:
            raise SystemExit(f"{events - delivered} of {events} events were not delivered")
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - start
    say(f"events   all {events} delivered {seconds:.1f} s after the last request")
