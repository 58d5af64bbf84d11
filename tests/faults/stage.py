"""What the fault tests of the whole system share: servers, services in two replicas, and a fleet."""

from collections.abc import Mapping
from pathlib import Path

from tests.faults.ledger import Ledger
from tests.support.harness.device import SimulatedDevice
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.processes import free_port
from tests.support.harness.servers import Rabbit, Store
from tests.support.harness.sink import Sink
from tests.support.harness.system import System

DEVICES = 12


class Stage:
    """Servers, services and authorities that the tests of a module share. `own`: environments of single
    processes, by service and number."""

    def __init__(
        self, folder: Path, own: Mapping[tuple[str, int], Mapping[str, str]] | None = None
    ) -> None:
        self.authority = FleetAuthority()
        (folder / "ca.pem").write_bytes(self.authority.pem)
        self.sink_port = free_port()
        self.rabbit, self.store = Rabbit(folder / "rabbit"), Store(folder / "store")
        self.rabbit.start()
        self.store.start()
        self.system = System(
            folder,
            {
                "MDM_AMQP_URL": self.rabbit.url,
                "MDM_MONGODB_URL": self.store.url,
                "MDM_DEVICE_CA": str(folder / "ca.pem"),
                "MDM_WEBHOOK_URL": f"http://127.0.0.1:{self.sink_port}/webhook",
                "MDM_WEBHOOK_RETRY_SCHEDULE": "1s,1s,1s,2s,2s,5s,5s,5s,10s,30s,1h",
            },
            replicas=2,
            own=own or {},
        )
        self.system.start()

    def ledger(self, sink: Sink, seed: int, devices: int = DEVICES) -> Ledger:
        """The account of a new fleet."""
        fleet = [SimulatedDevice(self.authority.issue(), counts=True) for _ in range(devices)]
        ports = {name: self.system.ports(name) for name in ("checkin", "commands")}
        return Ledger(fleet, ports, sink, seed)

    def close(self) -> None:
        self.system.close()
        self.rabbit.close()
        self.store.close()
