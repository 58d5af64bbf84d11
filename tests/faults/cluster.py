"""Services that come and go as in a cluster, behind the proxy: a replica is found once it is ready, and not
any more when it ends, as a pod's preStop sees to.

Each replica has an address of its own (127.0.1.1, 127.0.1.2, ...), all of a service have the same port.
"""

import asyncio
import importlib.util
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from tests.faults.ledger import Ledger
from tests.support.harness.device import SimulatedDevice
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.name_server import NameServer
from tests.support.harness.processes import accepts, free_port, spawn
from tests.support.harness.servers import Rabbit, Store
from tests.support.harness.sink import Sink
from tests.support.harness.system import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("webhook", "push", "commands", "checkin")
EARLIER = "856ced23532e968126090f93d5f859366c042fac"
"""The version from which, and back to which, an upgrade rolls: the last one with a single webhook."""
ARCHIVE = Path(__file__).with_name("earlier.tar.xz")
"""git archive EARLIER services shared docs/openapi.json | xz -9e; a checkout need not have the history."""
PRE_STOP = 2.5
"""Seconds, more than the second for which the proxy keeps an address."""


def deploy_parts() -> ModuleType:
    """deploy/local/parts.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("deploy_parts", ROOT / "deploy/local/parts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def earlier_version(folder: Path) -> Path:
    """The services of EARLIER, to run with our packages."""
    with tarfile.open(ARCHIVE) as archive:
        assert archive.pax_headers["comment"] == EARLIER
        archive.extractall(folder, filter="data")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


class Cluster:
    """Replicas of the four services on one broker and one store, and the proxy of docker-compose.yml."""

    def __init__(self, folder: Path, rabbit: Rabbit, store: Store, names: NameServer) -> None:
        self._folder, self._names = folder, names
        self._authority = FleetAuthority()
        (folder / "ca.pem").write_bytes(self._authority.pem)
        self.sink_port, self.proxy_port = free_port(), free_port()
        self._ports = {name: free_port() for name in NAMES}
        self._settings = {
            "MDM_AMQP_URL": rabbit.url,
            "MDM_MONGODB_URL": store.url,
            "MDM_DEVICE_CA": str(folder / "ca.pem"),
            "MDM_WEBHOOK_URL": f"http://127.0.0.1:{self.sink_port}/webhook",
            "MDM_WEBHOOK_RETRY_SCHEDULE": "1s,1s,1s,2s,2s,5s,5s,5s,10s,30s,1h",
        }
        self._made = 0
        self.replicas: dict[str, list[tuple[str, ServiceProcess]]] = {name: [] for name in NAMES}
        self.exit_codes: list[int] = []

    async def add(self, name: str, checkout: Path | None = None) -> None:
        """Start a replica, of another version if need be, and let it be found once it is ready."""
        self._made += 1
        address = f"127.0.1.{self._made}"
        own = {**self._settings, "MDM_HTTP": f"{address}:{self._ports[name]}"}
        process = ServiceProcess(name, self._folder / f"{name}-{self._made}", own, checkout)
        self.replicas[name].append((address, process))
        await asyncio.to_thread(process.start)
        self._publish(name)

    async def remove_oldest(self, name: str) -> None:
        """End a replica in the order of Kubernetes: out of the endpoints, preStop, SIGTERM."""
        _, process = self.replicas[name].pop(0)
        self._publish(name)
        await asyncio.sleep(PRE_STOP)
        self.exit_codes.append(await asyncio.to_thread(process.terminate))

    def _publish(self, name: str) -> None:
        self._names.hosts[f"{name}.cluster"] = [address for address, _ in self.replicas[name]]

    async def run_proxy(self) -> "subprocess.Popen[bytes]":
        parts = deploy_parts()
        folder = self._folder / "proxy"
        part = parts.proxy(folder, f"127.0.0.1:{self.proxy_port}")
        hosts = {f"{name.upper()}_ADDRESS": f"{name}.cluster:{self._ports[name]}" for name in NAMES}
        hosts["RESOLVER"] = f"resolver 127.0.0.1:{self._names.port} valid=1s ipv6=off;"
        routes = parts.filled_in(f"127.0.0.1:{self.proxy_port}", "", hosts)
        # Connections of the load last as long as the test.
        routes = routes.replace(
            "server_tokens off;", "server_tokens off; keepalive_requests 1000000;"
        )
        (folder / "routes.conf").write_text(routes)
        process = spawn(part.command, {}, folder / "nginx.log")
        while not accepts(self.proxy_port):
            assert process.poll() is None, (folder / "nginx.log").read_text()
            await asyncio.sleep(0.05)
        return process

    def ledger(self, sink: Sink, devices: int, seed: int = 1) -> Ledger:
        """The account of a new fleet, which reaches everything by the proxy."""
        fleet = [SimulatedDevice(self._authority.issue(), counts=True) for _ in range(devices)]
        ports = {"checkin": [self.proxy_port], "commands": [self.proxy_port]}
        return Ledger(fleet, ports, sink, seed)

    def close(self) -> None:
        for replicas in self.replicas.values():
            for _, process in replicas:
                process.close()


@asynccontextmanager
async def cluster(folder: Path, checkout: Path | None = None) -> AsyncIterator[Cluster]:
    """One replica of each service, of this version or another one, behind the proxy."""
    rabbit, store = Rabbit(folder / "rabbit"), Store(folder / "store")
    try:
        await asyncio.gather(*(asyncio.to_thread(each.start) for each in (rabbit, store)))
        async with NameServer(free_port()) as names:
            made = Cluster(folder, rabbit, store, names)
            proxy = None
            try:
                await asyncio.gather(*(made.add(name, checkout) for name in NAMES))
                proxy = await made.run_proxy()
                yield made
            finally:
                made.close()
                if proxy is not None:
                    proxy.terminate()
                    proxy.wait(10)
    finally:
        rabbit.close()
        store.close()
