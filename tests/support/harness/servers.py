"""Private servers for tests: a RabbitMQ node and a store with MongoDB's protocol, on free loopback ports.

Promises: each keeps its port and its folder over any number of stops, kills and restarts; nothing
outlives the process that started it, not even when that one is killed; nothing is shared with a
server of the machine (own cookie, own epmd, own configuration, own folder).

`python -m tests.support.harness.servers` starts both, prints their addresses as shell assignments and serves
until SIGTERM; with a command behind it, it runs that command with the two variables set.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.harness.processes import (
    Elsewhere,
    HasUrl,
    Server,
    ServerMissing,
    accepts,
    free_port,
    spawn,
    wait_for,
)

__all__ = [
    "AMQP_VARIABLE",
    "MONGODB_VARIABLE",
    "Elsewhere",
    "HasUrl",
    "Rabbit",
    "Server",
    "ServerMissing",
    "Store",
    "free_port",
]

AMQP_VARIABLE = "MDM_TEST_AMQP_URL"
MONGODB_VARIABLE = "MDM_TEST_MONGODB_URL"


class Rabbit(Server):
    """A RabbitMQ node. Its epmd is a process of ours too, so that none is left behind."""

    name = "RabbitMQ"
    programs = Path("/usr/lib/rabbitmq/bin")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._environment = self._make_environment()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl (it takes about two seconds); returns what it printed."""
        command = [str(self._program("rabbitmqctl")), "-q", *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stderr.decode()[-500:]}")
        return done.stdout.decode()

    def close(self) -> None:
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def _launch(self) -> subprocess.Popen[bytes]:
        program = self._program("rabbitmq-server")
        if self._epmd is None:
            epmd = shutil.which("epmd")
            if epmd is None:
                raise ServerMissing(_MISSING)
            self._epmd = spawn([epmd], self._environment, self.folder / "epmd.log")
            wait_for(lambda: accepts(self._epmd_port))
        return spawn([str(program)], self._environment, self._log)

    def _serves(self) -> bool:
        """True once the node answers the protocol header: it listens before it can serve."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
                link.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(link.recv(1))
        except OSError:
            return False

    def _program(self, name: str) -> Path:
        program = self.programs / name
        if not program.exists():
            raise ServerMissing(_MISSING)
        return program

    def _make_environment(self) -> dict[str, str]:
        folder = self.folder
        (folder / "plugins").write_text("[].\n")
        (folder / "env.conf").write_text("")
        # Names from here alone: without it Erlang starts resolver processes that outlive a SIGKILL.
        (folder / "inetrc").write_text('{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n')
        (folder / "rabbit.conf").write_text(
            "disk_free_limit.absolute = 20MB\nlog.file.level = warning\n"
        )
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "ERL_INETRC": str(folder / "inetrc"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
            # Makes the start script become the Erlang machine, with no shell in between.
            "RUNNING_UNDER_SYSTEMD": "1",
            # No busy waiting: the tests share few cores with the node.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }


class Store(Server):
    """SecantusDB, which speaks MongoDB's protocol, synced at every commit."""

    name = "SecantusDB"
    stop_timeout = 5.0  # right after a start it sometimes does not hear a SIGTERM

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def _launch(self) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).parent / "secantusd-py"
        if not program.exists():
            raise ServerMissing(
                f"SecantusDB is not installed: pip install 'macromdm[dev]', or set {MONGODB_VARIABLE}"
            )
        command = [str(program), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--storage-path", str(self.folder / "data"), "--standalone", "--sync-on-commit"]
        return spawn(command, os.environ, self._log)

    def _serves(self) -> bool:
        return accepts(self.port)


_MISSING = (
    "rabbitmq-server is not installed: apt-get install rabbitmq-server (as root), "
    f"or set {AMQP_VARIABLE} to the URL of a RabbitMQ that tests may use"
)


def main(command: Sequence[str]) -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with tempfile.TemporaryDirectory(prefix="mdm-tests-") as folder:
        servers: list[Server] = [Rabbit(Path(folder, "rabbit")), Store(Path(folder, "store"))]
        try:
            for server in servers:
                server.start()
            urls = {AMQP_VARIABLE: servers[0].url, MONGODB_VARIABLE: servers[1].url}
            if command:
                return _run(command, urls, stopping)
            for name, url in urls.items():
                print(f"{name}={url}", flush=True)
            stopping.wait()
        except ServerMissing as missing:
            print(missing, file=sys.stderr)
            return 2
        finally:
            for server in servers:
                server.close()
    return 0


def _run(command: Sequence[str], urls: Mapping[str, str], stopping: threading.Event) -> int:
    child = subprocess.Popen(list(command), env={**os.environ, **urls})
    while child.poll() is None:
        if stopping.wait(0.1):
            child.terminate()
            return child.wait()
    return child.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
