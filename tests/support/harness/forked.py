"""Processes of the services without the second that each takes for its imports.

Promise: such a process runs what `python -m MODULE` runs, in a group of its own, with the given environment
and output; before it was forked nothing of the services ran but their imports. It ends with the process that
asked for it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_forkers: list[tuple[subprocess.Popen[bytes], socket.socket]] = []
_first = threading.Lock()


class ForkedProcess:
    """What tests need of `subprocess.Popen`. `status` says the exit code once it has ended."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self._status = status
        self._code: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("services", timeout or 0)
            self._code = int(self._status.recv(16) or -signal.SIGKILL)
            self._status.close()
        return self._code

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def fork(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
    """Run a module, the first argument, as a program; what it prints goes to the end of `log`."""
    status, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs, log.open("ab") as output:
        request = json.dumps([list(arguments), dict(environment)]).encode()
        socket.send_fds(_forker(), [request], [output.fileno(), theirs.fileno()])
    if pid := status.recv(16):
        return ForkedProcess(int(pid), status)
    status.close()
    raise RuntimeError("the program that forks has ended: can the services be imported?")


def _forker() -> socket.socket:
    """Where requests go: to one program for all, that is started for the first."""
    with _first:
        if not _forkers:
            ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
            with theirs:
                program = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.harness.forker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            _forkers.append((program, ours))
        return _forkers[0][1]
