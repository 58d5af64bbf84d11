"""Child processes of tests: each in a group and a folder of its own, and never left behind."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

START_TIMEOUT = 90.0

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1

# The kernel sends the death signal when the *thread* that started the child ends, so all children
# are started by one thread that lives as long as this process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="test-servers")


class ServerMissing(RuntimeError):
    """A server's program is not installed; the message says what to do."""


def _candidates() -> Iterator[int]:
    """Ports of this process alone: below those of outgoing connections, of which one might get the port of a
    server that is down for a moment, and in a range for each worker of a test run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    lowest = _LOWEST_PORT + worker % _PORT_RANGES * _PORTS
    start = random.randrange(_PORTS)
    while True:
        for number in range(_PORTS):
            yield lowest + (start + number) % _PORTS


_LOWEST_PORT, _PORTS, _PORT_RANGES = 12_000, 5_000, 4
_ports = _candidates()


def free_port() -> int:
    """A port where nothing listens, and that no other call in this run is given soon."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports have no end")


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own that is killed when this process ends. It runs in
    `folder`, or else where we do."""
    parent = os.getpid()

    def tie_to_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=tie_to_parent,  # noqa: PLW1509 - does nothing that needs a lock
            )

    return _spawner.submit(start).result()


class Child(Protocol):
    """What a `Server` needs of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...


class HasUrl(Protocol):
    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Elsewhere:
    """A server that somebody else runs."""

    url: str


class Server:
    """One server process on a fixed port with a folder of its own. All methods block."""

    name = "server"
    stop_timeout = 20.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: Child | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it serves."""
        self._process = self._launch()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Wait until a process that was launched serves; it is killed if it does not."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._serves():
            if not self.is_running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not start:\n{self._log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM); killed if that takes too long."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.stop_timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nobody answers, once this returns."""
        self._signal(signal.SIGSTOP)
        wait_for(lambda: _is_stopped(self.pid))

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start again, on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        self.kill()

    def _launch(self) -> Child:
        raise NotImplementedError

    def _serves(self) -> bool:
        raise NotImplementedError

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    @property
    def _log(self) -> Path:
        return self.folder / "output.log"

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


def _is_stopped(pid: int) -> bool:
    """Whether every thread has taken the signal: on a busy machine that is not at once."""
    states = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rsplit(")", 1)[1].split()[0] == "T" for stat in states)


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("a test server did not start")
        time.sleep(0.02)
