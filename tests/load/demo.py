"""`make demo`: a simulated fleet against the system of `make up`, with a live table.

Every device enrolls, waits to be pushed, connects, and answers its commands. A ledger keeps every
message that was answered 200 and every command that was accepted; at the end each of them must have
reached the webhook, and each command its device. The exit code is 1 if anything was lost.

The services are started with the demo's own webhook listener, fake APNs and device CA; a `make up`
that ran before runs again, with its own settings, afterwards.
"""

import argparse
import asyncio
import base64
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.harness.apns import FakeApns, Pushed
from tests.support.harness.device import TOPIC, ApiClient, SimulatedDevice, command_uuid_of
from tests.support.harness.http1 import Answer, Connection, ConnectionLost
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.sink import Sink

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / ".run"
STACK = ROOT / "deploy" / "local" / "stack.py"
SERVER = "http://127.0.0.1:8080"
SETTLE_SECONDS = 60.0
TRIES = 30


@dataclass
class Ledger:
    """What was acknowledged, and what came of it."""

    enrolled: int = 0
    queued: set[str] = field(default_factory=set)
    pushed: int = 0
    answered: set[str] = field(default_factory=set)
    messages: Counter[bytes] = field(default_factory=Counter)
    """Bodies that were answered 200, each with how often."""
    errors: Counter[str] = field(default_factory=Counter)


class Line:
    """A device's or a client's connection; sends again what was not answered, as they do."""

    def __init__(self, ledger: Ledger) -> None:
        parts = urlsplit(SERVER)
        assert parts.hostname is not None and parts.port is not None
        self._ledger = ledger
        self._connection = Connection(parts.hostname, parts.port)

    async def send(self, request: bytes) -> Answer:
        for _ in range(TRIES):
            try:
                answer = await self._connection.send(request)
            except (ConnectionLost, OSError):
                self._ledger.errors["connection lost"] += 1
            else:
                if answer.status < 500:
                    return answer
                self._ledger.errors[f"answered {answer.status}"] += 1
            await asyncio.sleep(1)
        raise RuntimeError("the server does not answer; see .run/log")

    async def tell(self, request: bytes) -> Answer:
        """A device's message, which must be taken."""
        answer = await self.send(request)
        if answer.status != 200:
            raise RuntimeError(f"a device was answered {answer.status}")
        self._ledger.messages[request.partition(b"\r\n\r\n")[2]] += 1
        return answer

    def close(self) -> None:
        self._connection.close()


class Phone:
    """One device: it acts when it is pushed, and at no other time."""

    def __init__(self, device: SimulatedDevice, ledger: Ledger) -> None:
        self.device = device
        self._ledger = ledger
        self._line = Line(ledger)
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def live(self, enrolling: asyncio.Semaphore) -> None:
        async with enrolling:
            await self._line.tell(self.device.authenticate())
            await self._line.tell(self.device.token_update())
        self._ledger.enrolled += 1
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self._work()

    async def _work(self) -> None:
        answer = await self._line.tell(self.device.idle())
        while (command_uuid := command_uuid_of(answer.body)) is not None:
            answer = await self._line.tell(self.device.report(command_uuid))
            self._ledger.answered.add(command_uuid)

    def close(self) -> None:
        self._line.close()


async def hand_pushes_on(apns: FakeApns, phones: Mapping[bytes, Phone], ledger: Ledger) -> None:
    while True:
        pushes: list[Pushed]
        pushes, apns.pushes = apns.pushes, []
        for push in pushes:
            # Pushes of an earlier fleet may still arrive.
            if push.token in phones:
                ledger.pushed += 1
                phones[push.token].wake()
        await asyncio.sleep(0.02)


async def queue_commands(phones: list[Phone], each: int, ledger: Ledger) -> None:
    """As an API client does: several requests at a time."""
    client = ApiClient((RUN / "api-key").read_text().strip())
    todo = [
        (phone.device.udid, f"demo-{phone.device.udid}-{number}")
        for number in range(each)
        for phone in phones
    ]
    pending = iter(todo)

    async def work() -> None:
        line = Line(ledger)
        for udid, command_uuid in pending:
            answer = await line.send(client.enqueue(udid, command_uuid))
            if answer.status in {200, 201}:
                ledger.queued.add(command_uuid)
            else:
                ledger.errors[f"command answered {answer.status}"] += 1
        line.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(16):
            tasks.create_task(work())


class Table:
    """The state, redrawn in place on a terminal, a line now and then elsewhere."""

    def __init__(self, ledger: Ledger, sink: Sink, devices: int) -> None:
        self._ledger, self._sink, self._devices = ledger, sink, devices
        self._started = time.monotonic()
        self._drawn = 0

    async def keep_drawing(self) -> None:
        while True:
            self.draw()
            await asyncio.sleep(0.25 if sys.stdout.isatty() else 2)

    def rows(self) -> list[tuple[str, int, int]]:
        ledger = self._ledger
        events = len({arrival.event_id for arrival in self._sink.taken})
        return [
            ("devices enrolled", ledger.enrolled, self._devices),
            ("commands accepted", len(ledger.queued), len(ledger.queued)),
            ("pushes at APNs", ledger.pushed, ledger.pushed),
            ("commands answered", len(ledger.answered), len(ledger.queued)),
            ("events at the webhook", events, ledger.messages.total()),
        ]

    def draw(self) -> None:
        seconds = time.monotonic() - self._started
        if not sys.stdout.isatty():
            said = ", ".join(f"{name} {count}" for name, count, _ in self.rows())
            print(f"{seconds:5.1f} s  {said}", flush=True)
            return
        if self._drawn:
            print(f"\x1b[{self._drawn}A", end="")
        lines = [f"  {name:<22} {count:>7} of {whole:>7}" for name, count, whole in self.rows()]
        lines.append(f"  {seconds:.1f} s")
        print("\n".join(f"\x1b[2K{line}" for line in lines), flush=True)
        self._drawn = len(lines)


async def settled(ledger: Ledger, sink: Sink) -> None:
    """Until every command is answered and every message has become an event, or it takes too long."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if ledger.queued <= ledger.answered and not lost_events(ledger, sink):
            return
        await asyncio.sleep(0.2)


def lost_events(ledger: Ledger, sink: Sink) -> int:
    """Messages that were answered 200 and have no event of their own."""
    seen: dict[str, bytes] = {}
    for arrival in sink.taken:
        inner = arrival.event.get("checkin_event") or arrival.event.get("acknowledge_event") or {}
        seen[arrival.event_id] = base64.b64decode(inner.get("raw_payload", ""))
    return (ledger.messages - Counter(seen.values())).total()


@contextmanager
def stack(settings: Mapping[str, str]) -> Iterator[None]:
    """The services with the demo's settings; what ran before runs again afterwards."""
    ran_before = (RUN / "ready").exists()
    run_stack("down", {})
    run_stack("up", settings)
    try:
        yield
    finally:
        run_stack("down", {})
        if ran_before:
            print("the services run again, with the settings of this shell:")
            run_stack("up", {})


def run_stack(command: str, settings: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(STACK), command], env={**os.environ, **settings}, cwd=ROOT, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)


async def demo(devices: int, commands: int) -> int:
    folder = RUN / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    authority = FleetAuthority()
    (folder / "fleet-ca.pem").write_bytes(authority.pem)
    apns = FakeApns(folder / "apns")
    await apns.start()
    async with Sink() as sink:
        pair = apns.certificate(TOPIC)
        settings = {
            "MDM_WEBHOOK_URL": sink.url,
            "MDM_DEVICE_CA": str(folder / "fleet-ca.pem"),
            "MDM_APNS_URL": apns.url,
            "MDM_APNS_CA": str(apns.authority.ca_file),
            "MDM_PUSH_CERT": str(pair.certificate),
            "MDM_PUSH_KEY": str(pair.key),
        }
        # In threads: listener and APNs answer while the services start and end.
        running = stack(settings)
        await asyncio.to_thread(running.__enter__)
        try:
            return await show_fleet(devices, commands, (authority, apns, sink))
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
            await apns.stop()


async def show_fleet(
    devices: int, commands: int, world: tuple[FleetAuthority, FakeApns, Sink]
) -> int:
    authority, apns, sink = world
    ledger = Ledger()
    phones = [
        Phone(SimulatedDevice(authority.issue(), topic=TOPIC), ledger) for _ in range(devices)
    ]
    table = Table(ledger, sink, devices)
    by_token = {phone.device.push_token: phone for phone in phones}
    enrolling = asyncio.Semaphore(32)
    background = [hand_pushes_on(apns, by_token, ledger), table.keep_drawing()]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in background]
        running += [tasks.create_task(phone.live(enrolling)) for phone in phones]
        while ledger.enrolled < devices:
            await asyncio.sleep(0.05)
        await queue_commands(phones, commands, ledger)
        await settled(ledger, sink)
        for task in running:
            task.cancel()
    table.draw()
    for phone in phones:
        phone.close()
    lost_commands = len(ledger.queued - ledger.answered)
    lost = lost_events(ledger, sink)
    print(f"lost: {lost_commands} commands, {lost} events")
    for what, count in ledger.errors.items():
        print(f"sent again: {count} times {what}")
    return 1 if lost_commands or lost else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="A simulated fleet.")
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--commands", type=int, default=4, help="for each device")
    arguments = parser.parse_args()
    return asyncio.run(demo(arguments.devices, arguments.commands))


if __name__ == "__main__":
    sys.exit(main())
