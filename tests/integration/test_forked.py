"""A forked process is like one that was started."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness.forked import fork
from tests.support.harness.processes import Child, spawn, wait_for
from tests.support.harness.system import ServiceProcess

ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "MDM_HTTP": "127.0.0.1:0"}
FACTS = """
import json, os, signal, sys, threading
def target(fd):
    try: return os.readlink(f"/proc/self/fd/{fd}")
    except OSError: return None
print(json.dumps([
    dict(os.environ), os.getcwd(), sys.path, sys.flags, threading.active_count(),
    os.getpgrp() == os.getsid(0) == os.getpid(),
    [str(signal.getsignal(number)) for number in signal.valid_signals()],
    [target(fd) for fd in sorted(map(int, os.listdir("/proc/self/fd")))],
]))
"""
Start = Callable[[list[str], Path], Child]


def started(arguments: list[str], log: Path) -> Child:
    return spawn([sys.executable, "-m", *arguments], ENVIRONMENT, log)


def forked(arguments: list[str], log: Path) -> Child:
    return fork(arguments, ENVIRONMENT, log)


def facts(start: Start, log: Path) -> object:
    """What a process sees of itself; `timeit` runs any code as a module."""
    assert start(["timeit", "-n1", "-r1", FACTS], log).wait(30) == 0
    return json.loads(log.read_text().splitlines()[0])


def test_it_sees_of_itself_what_a_started_one_sees(tmp_path: Path) -> None:
    assert facts(forked, tmp_path / "log") == facts(started, tmp_path / "log")


@pytest.mark.parametrize("start", [started, forked])
def test_its_end_is_known(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    refused = start(["services", "checkin"], log).wait(30)
    slow = [start(["timeit", "-s", "import time", "time.sleep(60)"], log) for _ in range(2)]
    states = [each.poll() for each in slow]
    slow[0].terminate()
    os.killpg(slow[1].pid, signal.SIGKILL)
    ends = [each.wait(30) for each in slow]

    assert (refused, states, ends) == (2, [None, None], [-signal.SIGTERM, -signal.SIGKILL])
    assert "macromdm: MDM_" in log.read_text()


async def test_a_service_starts_by_a_fork_and_ends_in_order(tmp_path: Path) -> None:
    process = ServiceProcess("all", tmp_path, {"MDM_SERVER_URL": "https://mdm.example.com"})
    process.start()
    try:
        first = process.pid
        process.kill()
        wait_for(lambda: not Path(f"/proc/{first}").exists())
        process.start()
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"forker" in command
        assert process.terminate() == 0
    finally:
        process.close()
