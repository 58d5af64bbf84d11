"""The supervisor of `make up`: starts the parts, restarts what ends by itself, ends them in order.

Nothing that it started outlives it, not even when it is killed. Process ids and addresses of the
parts are in pids.json, and `ready` exists while everything serves.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import parts
from parts import Part

RUN = Path(".run").resolve()
PIDS = RUN / "pids.json"
READY = RUN / "ready"
ENVIRONMENT = RUN / "env"
API_KEY = RUN / "api-key"
SECRET_KEY = RUN / "secret-key"
START_SECONDS = 90.0
STOP_SECONDS = 20.0
STEADY_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """What cannot be done, in one line."""


class Child:
    """One running part."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.log = RUN / "log" / f"{part.name}.log"
        self.process = self._start()
        self.started = time.monotonic()

    def _start(self) -> "subprocess.Popen[bytes]":
        libc, parent = ctypes.CDLL(None), os.getpid()

        def tie_to_supervisor() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        inherited = os.environ if self.part.inherits else {}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.part.command,
                env={**inherited, **self.part.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=tie_to_supervisor,  # noqa: PLW1509 - there is one thread
            )

    def until_it_serves(self, stopping: threading.Event) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.part.serves():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.part.name} does not start: {self._last_words()}")
            if stopping.wait(0.1):
                raise Failed("stopped")

    def _last_words(self) -> str:
        said = [line.strip(" |+-") for line in self.log.read_text(errors="replace").splitlines()]
        return f"{([line for line in said if line] or ['it says nothing'])[-1]} ({shown(self.log)})"

    def is_dead(self) -> bool:
        return self.process.poll() is not None

    def restart(self) -> None:
        self.process = self._start()
        self.started = time.monotonic()

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()

    def end(self, deadline: float) -> None:
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Stack:
    """All parts, in the order in which they need one another."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._stopping = threading.Event()

    def serve(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        try:
            self._start()
            READY.write_text("")
            self._watch()
        except Failed as failure:
            print(failure, flush=True)
            return 1
        finally:
            self._stop()
        return 0

    def _start(self) -> None:
        ports = remembered_ports()
        mongodb, amqp = os.environ.pop("MDM_MONGODB_URL", ""), os.environ.pop("MDM_AMQP_URL", "")
        listen = os.environ.pop("MDM_HTTP", "127.0.0.1:8080")
        listen = listen if not listen.startswith(":") else f"0.0.0.0{listen}"
        first = []
        if not amqp:
            amqp = f"amqp://guest:guest@127.0.0.1:{ports['rabbitmq']}/"
            first.append(parts.epmd(ports["epmd"]))
            first.append(parts.rabbit(RUN / "rabbitmq", ports["rabbitmq"], ports["epmd"]))
        if not mongodb:
            mongodb = f"mongodb://127.0.0.1:{ports['store']}/macromdm"
            first.append(parts.store(RUN / "store", ports["store"]))
        settings = service_settings(listen, mongodb, amqp)
        for_commands = {**settings, "MDM_HTTP": listen}
        leave_private(ENVIRONMENT, "".join(f"{k}='{v}'\n" for k, v in for_commands.items()))
        for part in first:
            self._add([part])
        self._add(parts.service(name, settings) for name in parts.SERVICES)
        self._add(
            [parts.proxy(RUN / "proxy", listen, os.environ.get("MDM_CLIENT_CERT_HEADER", ""))]
        )

    def _add(self, together: Iterable[Part]) -> None:
        added = [Child(part) for part in together]
        self._children += added
        self._note()
        for child in added:
            child.until_it_serves(self._stopping)

    def _watch(self) -> None:
        while not self._stopping.wait(0.5):
            dead = [child for child in self._children if child.is_dead()]
            for child in dead:
                print(f"{child.part.name} ended ({child.process.returncode}), restarts", flush=True)
                if time.monotonic() - child.started < STEADY_SECONDS:
                    self._stopping.wait(1)
                child.restart()
            if dead:
                self._note()

    def _stop(self) -> None:
        """From the outside in: the proxy, the services, then what they need."""
        READY.unlink(missing_ok=True)
        named = {child.part.name: child for child in self._children}
        services = [named.pop(name) for name in parts.SERVICES if name in named]
        rest = list(reversed(named.values()))
        outer = [child for child in rest if child.part.name == "proxy"]
        inner = [child for child in rest if child.part.name != "proxy"]
        for group in (outer, services, inner):
            for child in group:
                child.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for child in group:
                child.end(deadline)
        PIDS.unlink(missing_ok=True)

    def _note(self) -> None:
        known = {
            child.part.name: {"pid": child.process.pid, "where": child.part.where}
            for child in self._children
        }
        PIDS.write_text(json.dumps(known, indent=1))


def service_settings(listen: str, mongodb: str, amqp: str) -> dict[str, str]:
    """What all four services are told: as in Kubernetes, keys in files, and the proxy alone is trusted."""
    return {
        "MDM_SERVER_URL": f"http://{listen.replace('0.0.0.0', '127.0.0.1')}",
        **{k: v for k, v in os.environ.items() if k.startswith("MDM_")},
        "MDM_MONGODB_URL": mongodb,
        "MDM_AMQP_URL": amqp,
        "MDM_TRUSTED_PROXIES": parts.PROXY_ADDRESS,
        "MDM_API_KEY_FILE": str(API_KEY),
        "MDM_SECRET_KEY_FILE": os.environ.get("MDM_SECRET_KEY_FILE") or str(SECRET_KEY),
    }


def remembered_ports() -> dict[str, int]:
    """RabbitMQ, its epmd and the store keep their ports over restarts where they are still free."""
    file = RUN / "ports.json"
    try:
        ports: dict[str, int] = json.loads(file.read_text())
    except (OSError, ValueError):
        ports = {}
    for name in ("epmd", "rabbitmq", "store"):
        if name not in ports or parts.accepts(ports[name]):
            ports[name] = parts.free_port()
    file.write_text(json.dumps(ports))
    return ports


def leave_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def shown(path: Path) -> str:
    return os.path.relpath(path)
