"""What the dearest requests of strangers cost: `make bench ARGS=--strangers`.

One process of all services on its embedded store. Each attack has requests of its own making, no two with
the same certificates. They come one after the other: CPU of each. They come again to a process whose event
loop is timed: the longest call of that loop, in CPU of its thread. Then 32 connections repeat them for some
seconds beside a client that asks for /version. The last lines are of a device with a certificate of a trusted
CA. Figures, not verdicts; the targets stand in brackets.
"""

import argparse
import asyncio
import base64
import os
import plistlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from shared.security.asn1 import der
from tests.load.scenarios import CONNECTIONS, say
from tests.support.harness.device import SimulatedDevice
from tests.support.harness.http1 import Connection, request_bytes
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.scep import Client, csr, key_number
from tests.support.harness.strangers import (
    IS_AUTHORITY,
    CurveKey,
    OddRsa,
    Stranger,
    certificate,
    chain_of,
    extension,
    name,
)
from tests.support.harness.system import ServiceProcess, cpu_seconds

MIB = 1024 * 1024
LARGEST = 4 * MIB - 64
EACH = 20
SECONDS = 20.0
PATIENCE = 120.0
"""Seconds for one answer beside 31 others."""
PATH = "/mdm/connect"
AUTHORITY_NAME = "Fleet CA"
AUTHORITY = FleetAuthority(AUTHORITY_NAME)
VERSION = request_bytes("GET", "/version", "", b"")


@dataclass(frozen=True)
class Attack:
    """Requests of one kind. `fixed` and `per_mebibyte` are the milliseconds of CPU that one may cost."""

    name: str
    requests: Sequence[bytes]
    fixed: float = 20.0
    per_mebibyte: float = 4.0

    @property
    def target(self) -> float:
        return self.fixed + self.per_mebibyte * len(self.requests[0]) / MIB


def signed(cms: bytes, body: bytes = b"x") -> bytes:
    header = f"mdm-signature: {base64.b64encode(cms).decode()}\r\n"
    return request_bytes("PUT", PATH, header, body)


def many(make: Callable[[], bytes]) -> list[bytes]:
    return [make() for _ in range(EACH)]


def chain_attack(key: OddRsa | CurveKey, common_name: str, intermediates: int) -> list[bytes]:
    def make() -> bytes:
        leaf, others = chain_of(key, common_name, intermediates)
        return signed(leaf.cms(b"x", *others))

    return many(make)


def leaf_attack(*extensions: bytes, issuer: bytes | None = None, body: bytes = b"x") -> list[bytes]:
    def make() -> bytes:
        key = CurveKey()
        leaf = certificate(name("d"), issuer or name("N"), key, key, *extensions)
        return signed(leaf.cms(body), body)

    return many(make)


def wide_name(parts: int) -> bytes:
    kind = der.sequence(der.oid("2.5.4.3"), der.element(0x0C, b""))
    return der.sequence(*[der.element(der.SET, kind)] * parts)


def alternative_names(count: int) -> bytes:
    return extension("2.5.29.17", der.sequence(der.element(0x82, b"a") * count))


def networks(count: int) -> bytes:
    tree = der.sequence(der.element(0x87, bytes(8)))
    return extension("2.5.29.30", der.sequence(der.element(0xA0, tree * count)))


def crowd_attack(ca: str, dear: bytes, count: int) -> list[bytes]:
    """A signer named by its key identifier, which is looked for in all certificates."""
    mark = extension("2.5.29.14", der.octet_string(b"key"))

    def make() -> bytes:
        keys = [CurveKey() for _ in range(count)]
        made = [certificate(name("d"), name(ca), key, key, dear) for key in keys]
        signer = certificate(name("d"), name(ca), keys[0], keys[0], mark, dear)
        return signed(signer.cms(b"x", *(each.der for each in made[1:]), by_key=b"key"))

    return many(make)


def wide_attack(ca: str, parts: int, count: int) -> list[bytes]:
    """Intermediates whose names take long to compare."""
    wide, key = wide_name(parts), CurveKey()

    def make() -> bytes:
        leaf = certificate(name("d"), wide, CurveKey(), key)
        others = [certificate(wide, name(ca), key, key, IS_AUTHORITY).der for _ in range(count)]
        return signed(leaf.cms(b"x", *others))

    return many(make)


def ways_attack(ca: str, count: int) -> list[bytes]:
    """As many signature checks as there can be, each of the dearest kind."""
    keys = [CurveKey(ec.generate_private_key(ec.SECP521R1())) for _ in range(count)]
    own = OddRsa.make(8192, 32)

    def make() -> bytes:
        others = [certificate(name("N"), name(ca), key, key, IS_AUTHORITY).der for key in keys]
        leaf = certificate(name("d"), name("N"), own, keys[0])
        return signed(leaf.cms(b"x", *others))

    return many(make)


def over_the_air(content: bytes) -> list[bytes]:
    def make() -> bytes:
        key = CurveKey()
        leaf: Stranger = certificate(name("d"), name("N"), key, key)
        return request_bytes("POST", "/ota/phase23", "", leaf.cms(content, content=content))

    return many(make)


def scep_attack(ca: x509.Certificate) -> list[bytes]:
    """Enrollments that lack nothing but a challenge, for the largest key."""
    request = csr(key_number(0, 4096), "no challenge")
    client = Client(ca, key_number(1, 4096))
    messages = [client.request(request, transaction=f"t{number}") for number in range(EACH)]
    return [request_bytes("POST", "/scep?operation=PKIOperation", "", each) for each in messages]


def strangers(ca: x509.Certificate, operator: str) -> Iterator[Attack]:
    yield Attack("exponent of 3060 bits, 2 CAs", chain_attack(OddRsa.make(3072, 3060), "N", 2))
    yield Attack("RSA-16384, 9 CAs", chain_attack(OddRsa.make(16384, 64), "N", 9))
    yield Attack("P-521, 9 CAs of one name", ways_attack(operator, 9))
    yield Attack("P-521, 3 CAs of our name", ways_attack(operator, 3))
    yield Attack("13,000 alternative names", leaf_attack(alternative_names(13_000)))
    yield Attack("6 times 450 networks", crowd_attack(operator, networks(450), 6))
    yield Attack("9 CAs with names of 270 parts", wide_attack(operator, 270, 9))
    yield Attack("an issuer of 1,800 parts", leaf_attack(issuer=wide_name(1800)))
    keys = plistlib.dumps({f"k{number}": True for number in range(1300)})
    yield Attack("over the air, 45 KB of keys", over_the_air(keys))
    yield Attack("over the air, 45 KB of lines", over_the_air(lines(45_000)))
    yield Attack("SCEP, RSA-4096 twice", scep_attack(ca))
    yield Attack("4 MiB of body", leaf_attack(body=bytes(LARGEST)))


def lines(size: int) -> bytes:
    head, tail = b'<plist version="1.0"><dict><key>a</key><string>', b"</string></dict></plist>"
    return head + b"\n" * (size - len(head) - len(tail)) + tail


def values(unit: bytes, count: int) -> bytes:
    head, tail = b'<plist version="1.0"><dict><key>a</key><array>', b"</array></dict></plist>"
    return head + unit * count + tail


def certified(device: SimulatedDevice) -> Iterator[Attack]:
    lists = {"a": [[True] for _ in range(100_000)]}
    for title, body in {
        "4 MiB of line ends": lines(LARGEST),
        "490,000 <true/>": values(b"<true/>", 490_000),
        "99,000 <array/>": values(b"<array/>", 99_000),
        "99,000 dates": values(b"<date>2020-01-01T00:00:00Z</date>", 99_000),
        "500,000 unknown elements": values(b"<a></a>", 500_000),
        "150,000 odd keys": b"<plist><dict>%b</dict></plist>"
        % (b"<key>&lt;</key><true/>" * 150_000),
        "100,000 lists, binary": plistlib.dumps(lists, fmt=plistlib.FMT_BINARY),
        "3 MiB of data": plistlib.dumps({"Status": "Idle", "a": bytes(3 * MIB - 120_000)}),
    }.items():
        header = f"mdm-signature: {device.identity.sign(body)}\r\n"
        request = request_bytes("PUT", PATH, header, body)
        yield Attack(title, [request] * EACH, fixed=0.0, per_mebibyte=60.0)


class TimedProcess(ServiceProcess):
    """A process that tells the longest call of its loop."""

    module = "tests.load.timed_program"

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._calls = folder / "calls"
        super().__init__("all", folder, settings | {"TIMED_CALLS": str(self._calls)})
        self._read = 0

    def longest_call(self) -> float:
        """Milliseconds, of the calls since this was last asked for."""
        written = self._calls.read_text() if self._calls.exists() else ""
        lines, self._read = written[self._read :].splitlines(), len(written)
        return max((float(line.split()[0]) for line in lines), default=1.0)


async def one_by_one(attack: Attack, process: ServiceProcess) -> tuple[float, set[int]]:
    """Milliseconds of CPU of each, and the answers."""
    async with Connection("127.0.0.1", process.port) as connection:
        await connection.send(VERSION)
        cpu = cpu_seconds(process.pid)
        statuses = {(await connection.send(request)).status for request in attack.requests}
    return (cpu_seconds(process.pid) - cpu) / len(attack.requests) * 1e3, statuses


class watched:
    """A client that asks for /version again and again, and writes down how long each took."""

    def __init__(self, port: int, waits: list[float], *, every: float) -> None:
        self._port, self._waits, self._every = port, waits, every
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._ask())

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        async with Connection("127.0.0.1", self._port) as connection:
            while True:
                began = time.perf_counter()
                await connection.send(VERSION)
                self._waits.append(time.perf_counter() - began)
                await asyncio.sleep(self._every)


async def all_at_once(attack: Attack, process: ServiceProcess, seconds: float) -> tuple[float, int]:
    """The 99th percentile of the client beside 32 connections, in milliseconds, and their requests."""
    waits: list[float] = []
    until, done = time.perf_counter() + seconds, 0

    async def worker(number: int) -> None:
        nonlocal done
        async with Connection("127.0.0.1", process.port, within=PATIENCE) as connection:
            while time.perf_counter() < until:
                await connection.send(attack.requests[(number + done) % EACH])
                done += 1

    async with watched(process.port, waits, every=0.01), asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(worker(number))
    waits.sort()
    return waits[int(len(waits) * 0.99)] * 1e3, done


async def measure(process: ServiceProcess, timed: TimedProcess, seconds: float, only: str) -> None:
    for attack in [each async for each in attacks(process) if only in each.name]:
        cpu, statuses = await one_by_one(attack, process)
        line = f"{attack.name:28} {len(attack.requests[0]):8} bytes {sorted(statuses)}"
        await one_by_one(replace(attack, requests=attack.requests[:1]), timed)
        timed.longest_call()  # what a process does once does not count
        await one_by_one(attack, timed)
        line += f"  CPU {cpu:6.1f} ms ({attack.target:3.0f})"
        line += f"  longest call {timed.longest_call():5.1f} ms (5)"
        if seconds:
            p99, done = await all_at_once(attack, process, seconds)
            line += (
                f"  x{CONNECTIONS}: {done / seconds:5.0f}/s, p99 of /version {p99:4.0f} ms (250)"
            )
        say(line)


async def attacks(process: ServiceProcess) -> AsyncIterator[Attack]:
    async with Connection("127.0.0.1", process.port) as connection:
        got = await connection.send(request_bytes("GET", "/scep?operation=GetCACert", "", b""))
    for attack in strangers(x509.load_der_x509_certificate(got.body), AUTHORITY_NAME):
        yield attack
    for attack in certified(SimulatedDevice(AUTHORITY.issue())):
        yield attack


def main(seconds: float = SECONDS, only: str = "") -> None:
    say(f"{os.cpu_count()} cores; {EACH} requests of each kind, then {CONNECTIONS} connections")
    with tempfile.TemporaryDirectory(prefix="macromdm-bench-") as name:
        folder = Path(name)
        (folder / "ca.pem").write_bytes(AUTHORITY.pem)
        settings = {"MDM_DEVICE_CA": str(folder / "ca.pem")}
        process = ServiceProcess("all", folder / "all", settings)
        timed = TimedProcess(folder / "timed", settings)
        try:
            process.start()
            timed.start()
            uvloop.run(measure(process, timed, seconds, only))
        finally:
            for each in (process, timed):
                each.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of 32 connections, each kind"
    )
    parser.add_argument("--only", default="", help="attacks whose name holds this text")
    given = parser.parse_args()
    main(given.seconds, given.only)
