"""The program that has imported the services, and forks a process for each request it gets.

`python -m tests.support.harness.forker FD`: FD is a socket of `forked.fork`. It ends when that is closed, and
so do all that it forked.
"""

import ctypes
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys

import services

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
LONGEST_REQUEST = 2**17


def _serve(requests: socket.socket) -> list[str] | None:
    """Returns once nobody asks any more, and in each process that it forks: its module and arguments."""
    while True:
        request, fds, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 2)
        if not request:
            return None
        if _fork() == 0:
            requests.close()
            return _begin(json.loads(request), *fds)
        for each in fds:
            os.close(each)


def _fork() -> int:
    """The child is killed when its parent ends."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    return child


def _begin(request: tuple[list[str], dict[str, str]], output: int, status: int) -> list[str]:
    """Fork the process that is asked for; this one stays to say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = _fork()
    if child:
        os.close(output)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(status, b"%d" % code)
        os._exit(0)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.write(status, b"%d" % os.getpid())
    for each in (output, status):
        os.close(each)
    arguments, environment = request
    os.environ.clear()
    os.environ.update(environment)
    return arguments


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing is to wait for
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if module.name != "services.__main__":
            importlib.import_module(module.name)
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
