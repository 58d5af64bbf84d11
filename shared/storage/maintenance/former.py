"""The former embedded store: SecantusDB on its folder, started for as long as the folder is read.

Promises: the store answers before its URL is given; it does not outlive us, even at kill -9; it is not
stopped by a signal to our process group; a folder that another process uses is refused.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from shared.domain.errors import Misconfigured
from shared.storage.mongo import Mongo

PROGRAM = "secantusd-py"
START_DEADLINE = timedelta(minutes=2)
"""Long, since the traces of a killed process are put in order first."""
STOP_DEADLINE = timedelta(seconds=15)
PING_DEADLINE = timedelta(seconds=5)
POLL = timedelta(milliseconds=50)

# Messages of SecantusDB where another process holds the folder, or the port.
FOLDER_IN_USE = "Device or resource busy"
PORT_IN_USE = "Address already in use"

# Runs in the child, before the store: a death signal is kept over exec. It comes when the *thread*
# that started the child ends, hence the main thread; a parent that died before prctl never signals,
# hence the look at getppid. Systems other than Linux have no prctl: only the end of the context stops
# the store there. SIGKILL, because every acknowledged write is on the disk.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)
if os.getppid() != int(parent):
    sys.exit("the server has ended")
os.execv(command[0], command)
"""


@asynccontextmanager
async def former_store(folder: Path) -> AsyncIterator[str]:
    """The URL of the store in this folder, until the context ends. Misconfigured where it cannot run
    here."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the former store must be started from the main thread")
    program = _program()
    with tempfile.TemporaryFile() as log:
        process: asyncio.subprocess.Process | None = None
        port = 0
        try:
            try:
                async with asyncio.timeout(START_DEADLINE.total_seconds()):
                    while process is None:
                        port = _free_port()
                        process = await _launched(program, port, folder, log)
                        if not await _answers(process, port):
                            process = None
                            if PORT_IN_USE not in _said(log):
                                raise _does_not_start(folder, log)
            except TimeoutError as exc:
                raise _does_not_start(folder, log) from exc
            yield _url(port)
        finally:
            await _stop(process)


async def _launched(
    program: str, port: int, folder: Path, log: IO[bytes]
) -> asyncio.subprocess.Process:
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--standalone"]
    command += ["--sync-on-commit", "--log-level", "WARNING", "--cache-size", "256M"]
    command += ["--storage-path", str(folder)]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command,
        stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip


async def _answers(process: asyncio.subprocess.Process, port: int) -> bool:
    """False: it has ended."""
    # An operating system's process keeps real time: no Clock could make it start sooner.
    while not await _accepts(port):
        if process.returncode is not None:
            return False
        await asyncio.sleep(POLL.total_seconds())
    mongo = Mongo(_url(port), driver="pymongo")
    try:
        async with asyncio.timeout(PING_DEADLINE.total_seconds()):
            await mongo.ping()
    finally:
        await mongo.close()
    return process.returncode is None  # else another process has the port


async def _stop(process: asyncio.subprocess.Process | None) -> None:
    """End it: it is asked first, and killed if it does not end."""
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_DEADLINE.total_seconds()):
            await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _does_not_start(folder: Path, log: IO[bytes]) -> Misconfigured:
    said = _said(log)
    if FOLDER_IN_USE in said:
        return Misconfigured(f"{folder} is in use by another process: end that one")
    last = (said.strip().splitlines() or ["it did not answer in time"])[-1]
    return Misconfigured(f"the former store does not start on {folder}: {last}")


def _said(log: IO[bytes]) -> str:
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), 100_000, max(0, size - 100_000)).decode("utf-8", "replace")


def _program() -> str:
    beside = Path(sys.executable).with_name(PROGRAM)
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise Misconfigured(
            "the program of the former store is not installed; Python 3.11 to 3.13 can have it: "
            "pip install 'macromdm[former]'"
        )
    return found


def _url(port: int) -> str:
    return f"mongodb://127.0.0.1:{port}/macromdm"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _accepts(port: int) -> bool:
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
