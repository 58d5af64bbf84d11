"""The whole system as it is deployed: each service in processes of its own, killed for real.

A `ServiceProcess` keeps its ports over restarts, as a pod keeps its name.
"""

import asyncio
import base64
import contextlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.harness.forked import fork
from tests.support.harness.processes import Child, Server, free_port, spawn

API_KEY = "a-key-for-tests-of-32-characters"
SECRET_KEY = base64.b64encode(b"a secret key for tests: 32 bytes").decode()


def process_tree(pid: int) -> dict[int, list[str]]:
    """A process, its children, theirs, and so on, each with the fields of its `stat` from the state on."""
    stats: dict[int, list[str]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            stats[int(file.parent.name)] = file.read_text().rsplit(")", 1)[1].split()
    tree = {pid: stats[pid]}
    while more := {p: s for p, s in stats.items() if p not in tree and int(s[1]) in tree}:
        tree |= more
    return tree


def cpu_seconds(pid: int) -> float:
    """What a process and its descendants, those that have ended too, have used of the processors so far."""
    ticks = sum(sum(map(int, stat[11:15])) for stat in process_tree(pid).values())
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Of a process and its descendants."""
    pages = sum(int(stat[21]) for stat in process_tree(pid).values())
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class ServiceProcess(Server):
    """One replica of a service (or `all`)."""

    stop_timeout = 20.0
    module = "services"
    forks = False
    """Start by a fork where that makes no difference: not to measure memory, or a start."""

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, str],
        checkout: Path | None = None,
    ) -> None:
        """`checkout`: of another build, with a `.venv` of its own, that is to run in place of ours."""
        super().__init__(folder)
        self.name = name
        self._checkout = checkout
        self._ops_port = free_port()
        self._settings = dict(settings)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ops_url(self) -> str:
        """Where /healthz, /readyz and /metrics are."""
        return f"http://127.0.0.1:{self._ops_port}"

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(self.stop_timeout)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.ops_url}/metrics", timeout=5) as got:
            return str(got.read().decode())

    def resident_megabytes(self) -> float:
        return resident_megabytes(self.pid)

    def launch(self) -> None:
        """Start without waiting until it serves."""
        self._process = self._launch()

    def _launch(self) -> Child:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self._checkout or os.environ.get("PYTHONPATH", os.getcwd())),
            "MDM_API_KEY": API_KEY,
            "MDM_HTTP": f"127.0.0.1:{self.port}",
            "MDM_OPS_HTTP": f"127.0.0.1:{self._ops_port}",
            "MDM_LOG_FORMAT": "json",
            "MDM_DATA_DIR": str(self.folder / "data"),
            **self._settings,
        }
        if "MDM_MONGODB_URL" in environment:  # the embedded store has a key of its own
            environment.setdefault("MDM_SECRET_KEY", SECRET_KEY)
        # What a test gives as "" is not set at all.
        environment = {name: value for name, value in environment.items() if value}
        if self.forks and self._may_fork(environment):
            return fork([self.module, self.name], environment, self._log)
        python = self._checkout / ".venv" / "bin" / "python" if self._checkout else sys.executable
        return spawn(
            [str(python), "-m", self.module, self.name], environment, self._log, self._checkout
        )

    def _may_fork(self, environment: Mapping[str, str]) -> bool:
        """It is the same build, and no variable has to be there before Python starts."""
        variables = {name for name in environment if not name.startswith("MDM_")}
        return self._checkout is None and variables <= {"PATH", "PYTHONPATH"}

    def _serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.ops_url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


async def deliveries_command(
    process: ServiceProcess, *arguments: str, api_key: str = API_KEY
) -> str:
    """What `python -m services deliveries` says, by the API of this process."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", "deliveries", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd()),
            "MDM_API_KEY": api_key,
            "MDM_HTTP": process.url.removeprefix("http://"),
        },
    )
    async with asyncio.timeout(60):
        said, _ = await running.communicate()
    assert running.returncode == 0, said
    return said.decode()


@dataclass
class System:
    """Replicas of the four services on one broker and one store."""

    folder: Path
    settings: Mapping[str, str]
    replicas: int = 1
    checkout: Path | None = None
    own: Mapping[tuple[str, int], Mapping[str, str]] = field(default_factory=dict)
    """What the replica of a service with this number has set beside `settings`."""
    services: dict[str, list[ServiceProcess]] = field(default_factory=dict)

    def start(self) -> None:
        for name in ("webhook", "push", "commands", "checkin"):
            self.services[name] = [
                ServiceProcess(
                    name,
                    self.folder / f"{name}-{number}",
                    {**self.settings, **self.own.get((name, number), {})},
                    self.checkout,
                )
                for number in range(self.replicas)
            ]
        processes = self.all()
        for process in processes:
            process.launch()
        for process in processes:
            process.wait_until_serving()

    def all(self) -> list[ServiceProcess]:
        return [process for replicas in self.services.values() for process in replicas]

    def ports(self, name: str) -> list[int]:
        return [process.port for process in self.services[name]]

    def close(self) -> None:
        for process in self.all():
            process.close()
