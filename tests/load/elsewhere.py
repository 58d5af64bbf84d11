"""`make bench ARGS="--against URL"`: the same load on any server that speaks MicroMDM's API.

Its devices are of a CA of ours, which the server must trust, and which stays in a folder: `ca.pem` and
`ca-key.pem`. Another CA may be put there.
"""

import contextlib
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from tests.load.figures import Figures
from tests.load.machine import Receiver, delivered, measure
from tests.load.scenarios import Address, Size, show
from tests.support.harness.device import ApiClient, SimulatedDevice
from tests.support.harness.http1 import Connection
from tests.support.harness.identities import DeviceIdentity, FleetAuthority
from tests.support.harness.system import cpu_seconds, resident_megabytes

KEY_VARIABLE = "MDM_API_KEY"


@dataclass
class Remote:
    """A server that someone else runs; its CPU and memory are known only by its process."""

    address: Address
    authority: FleetAuthority
    api_key: str
    receiver: Receiver | None
    pid: int | None
    start_seconds: float | None = None

    @property
    def checkin(self) -> Address:
        return self.address

    @property
    def commands(self) -> Address:
        return self.address

    def cpu(self) -> dict[str, float]:
        return {} if self.pid is None else {"server": cpu_seconds(self.pid)}

    def memory(self) -> dict[str, float]:
        return {} if self.pid is None else {"server": resident_megabytes(self.pid)}

    def load_cpu(self) -> float:
        return time.process_time() + (0.0 if self.receiver is None else self.receiver.cpu())

    async def check(self) -> None:
        """Ends the benchmark with what to do, where the server refuses our devices or our key, or posts
        nothing to the receiver."""
        address = self.address
        device = SimulatedDevice(self.authority.issue(), host=address.host)
        client = ApiClient(self.api_key, address.host)
        steps = (
            (
                device.authenticate(),
                200,
                "it must trust the CA of our devices (ours: MDM_DEVICE_CA)",
            ),
            (device.token_update(), 200, "it must take a TokenUpdate"),
            (client.enqueue(device.udid, device.udid), 201, f"is the key of {KEY_VARIABLE} right?"),
        )
        async with Connection(address.host, address.port, tls=address.tls) as connection:
            for request, status, advice in steps:
                try:
                    answer = await connection.send(request)
                except OSError as exc:
                    raise SystemExit(f"the server cannot be reached: {exc}") from exc
                if answer.status != status:
                    raise SystemExit(f"the server answers {answer.status}: {advice}")
        if self.receiver is not None:
            await delivered(self.receiver, 2)


def address_of(url: str) -> Address:
    """SystemExit for a URL that no server can have."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise SystemExit("--against takes a folder, http://HOST:PORT or https://HOST:PORT")
    is_tls = parts.scheme == "https"
    # Other CAs of servers than the system's: SSL_CERT_FILE, as with every program that uses OpenSSL.
    tls = ssl.create_default_context() if is_tls else None
    return Address(parts.port or (443 if is_tls else 80), parts.hostname, tls)


def authority_in(folder: Path) -> FleetAuthority:
    """The CA of a folder, made where there is none."""
    certificate, key = folder / "ca.pem", folder / "ca-key.pem"
    authority = FleetAuthority("MacroMDM benchmark CA")
    if certificate.exists():
        authority.identity = DeviceIdentity.load(key, certificate)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        certificate.write_bytes(authority.pem)
        key.touch(mode=0o600)
        key.write_bytes(authority.identity.key_pem)
    show(f"the CA of our devices, which the server must trust: {certificate}")
    return authority


def api_key_of(file: Path | None, environ: Mapping[str, str] = os.environ) -> str:
    """From the file, or the environment; it is shown nowhere."""
    key = environ.get(KEY_VARIABLE, "") if file is None else file.read_text().strip()
    if not key:
        raise SystemExit(f"set {KEY_VARIABLE} to the server's API key, or name --api-key-file")
    return key


@contextlib.contextmanager
def receiver_at(address: str | None) -> Iterator[Receiver | None]:
    """A receiver of webhooks on HOST:PORT, where one is asked for."""
    if address is None:
        show("events are not counted: --sink HOST:PORT makes a receiver of webhooks there")
        yield None
        return
    host, _, port = address.rpartition(":")
    receiver = Receiver(int(port), host or "127.0.0.1")
    show(f"the server must post its events to {receiver.url}/webhook")
    try:
        yield receiver
    finally:
        receiver.close()


@dataclass(frozen=True)
class Access:
    """How to reach a server, and what is known of it."""

    url: str
    api_key_file: Path | None
    ca: Path
    sink: str | None
    pid: int | None


def measured_at(access: Access, size: Size, connections: Sequence[int]) -> Figures:
    """One run on a server that someone else runs."""
    address = address_of(access.url)
    authority, key = authority_in(access.ca), api_key_of(access.api_key_file)
    with receiver_at(access.sink) as receiver:
        remote = Remote(address, authority, key, receiver, access.pid)
        uvloop.run(remote.check())
        figures = uvloop.run(measure(remote, size, connections))
    return replace(figures, title=f"{address.host}:{address.port}")
