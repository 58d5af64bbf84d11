"""The embedded store: SecantusDB as a child process, for `all` without MDM_MONGODB_URL.

Promises: the store answers before `start` returns; it is not stopped by a signal to our process
group (we still write while we drain) and does not outlive us, even at kill -9; its address is in
`store.url` of the data folder, for other commands, only while it runs; a folder that a process of
an earlier run has not let go yet is waited for; a store that ends by itself makes `watch` raise.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import threading
from datetime import timedelta
from pathlib import Path

from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.mongo import Mongo

ADDRESS_FILE = "store.url"
LOG_FILE = "store.log"
START_DEADLINE = timedelta(seconds=15)
STOP_DEADLINE = timedelta(seconds=5)
PING_DEADLINE = timedelta(seconds=5)
POLL = timedelta(milliseconds=50)
LOG_LIMIT = 1_000_000

# What SecantusDB writes when the folder, or the port, still belongs to somebody else.
FOLDER_IN_USE = "Device or resource busy"
PORT_IN_USE = "Address already in use"

# Runs in the child, before the store: a death signal is kept over exec. It comes when the *thread*
# that started the child ends, hence the main thread; a parent that died before prctl never signals,
# hence the look at getppid. Systems other than Linux have no prctl: only `stop` ends the store there.
# SIGKILL, because whatever the store acknowledged is on the disk, and the next start is at once.
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


class _FolderInUse(Exception):
    """The store could not start because another process holds its folder or port."""


def running_url(data_dir: Path) -> str | None:
    """The address of the store that runs on this data folder, or None."""
    try:
        url, pid = (data_dir / ADDRESS_FILE).read_text().split()
        os.kill(int(pid), 0)
        host, port = url.removeprefix("mongodb://").split("/")[0].split(":")
        with socket.create_connection((host, int(port)), timeout=1):
            return url
    except (OSError, ValueError):
        return None


class EmbeddedStore:
    """Starts and ends the store of one data folder."""

    def __init__(self, data_dir: Path, *, start_deadline: timedelta = START_DEADLINE) -> None:
        self._data_dir = data_dir
        self._start_deadline = start_deadline
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._log_start = 0
        self._was_in_use = False

    async def start(self) -> str:
        """Start the store and return its URL. Misconfigured: it cannot run here, and why."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded store must be started from the main thread")
        program = _program()
        self._make_folder()
        try:
            async with asyncio.timeout(self._start_deadline.total_seconds()):
                return await self._start_when_free(program)
        except BaseException as exc:  # a cancelled start leaves no process behind either
            await self.stop()
            if isinstance(exc, TimeoutError):
                raise Misconfigured(self._why_not()) from exc
            raise

    async def watch(self) -> None:
        """Return once the store was stopped; raise StoreUnavailable when it ends by itself."""
        if self._process is None:
            raise RuntimeError("the embedded store was not started")
        code = await self._process.wait()
        if not self._stopping:
            raise StoreUnavailable(
                f"the embedded store ended by itself (exit code {code}): see {self._log}"
            )

    async def stop(self) -> None:
        """End the store: it is asked first, and killed if it does not end. May be called twice."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._forget_address(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_DEADLINE.total_seconds()):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @property
    def _log(self) -> Path:
        return self._data_dir / LOG_FILE

    def _make_folder(self) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
                os.truncate(self._log, 0)
        except OSError as exc:
            raise Misconfigured(
                f"MDM_DATA_DIR: the folder {self._data_dir} cannot be used ({exc.strerror})"
            ) from exc

    async def _start_when_free(self, program: str) -> str:
        while True:
            try:
                url = await self._launch(program)
            except _FolderInUse:
                self._was_in_use = True
                await asyncio.sleep(POLL.total_seconds() * 4)
                continue
            self._leave_address(url)
            return url

    async def _launch(self, program: str) -> str:
        port = _free_port()
        self._stopping = False
        command = [program, "--host", "127.0.0.1", "--port", str(port), "--standalone"]
        command += ["--sync-on-commit", "--log-level", "WARNING", "--cache-size", "256M"]
        command += ["--storage-path", str(self._data_dir.resolve() / "store")]
        with self._log.open("ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._log.chmod(0o600)
        url = f"mongodb://127.0.0.1:{port}/macromdm"
        await self._until_it_answers(self._process, port, url)
        return url

    async def _until_it_answers(
        self, process: asyncio.subprocess.Process, port: int, url: str
    ) -> None:
        # An operating system's process keeps real time: no Clock could make it start sooner.
        while not await _accepts(port):
            if process.returncode is not None:
                raise self._ended_early()
            await asyncio.sleep(POLL.total_seconds())
        mongo = Mongo(url, driver="pymongo")
        try:
            async with asyncio.timeout(PING_DEADLINE.total_seconds()):
                await mongo.ping()
        finally:
            await mongo.close()
        if process.returncode is not None:
            raise self._ended_early()

    def _ended_early(self) -> Exception:
        said = self._said()
        if FOLDER_IN_USE in said or PORT_IN_USE in said:
            return _FolderInUse()
        return Misconfigured(self._why_not())

    def _said(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read(100_000).decode("utf-8", "replace")

    def _why_not(self) -> str:
        said = self._said()
        if FOLDER_IN_USE in said or self._was_in_use:
            return (
                f"MDM_DATA_DIR: {self._data_dir / 'store'} is in use by another process; "
                "end that one, or give this one another folder"
            )
        last = (said.strip().splitlines() or ["it did not answer in time"])[-1]
        return f"the embedded store does not start on {self._data_dir / 'store'}: {last}"

    def _leave_address(self, url: str) -> None:
        """Atomically, so that a reader sees the whole address or none."""
        assert self._process is not None
        target = self._data_dir / ADDRESS_FILE
        draft = target.with_name(f"{ADDRESS_FILE}.{os.getpid()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{url}\n{self._process.pid}\n")
        draft.replace(target)

    def _forget_address(self, pid: int) -> None:
        """Only ours: after a failed start the address is that of whoever has the folder."""
        target = self._data_dir / ADDRESS_FILE
        with contextlib.suppress(OSError):
            if target.read_text().split()[1:] == [str(pid)]:
                target.unlink()


def _program() -> str:
    beside = Path(sys.executable).with_name("secantusd-py")
    found = str(beside) if beside.exists() else shutil.which("secantusd-py")
    if found is None:
        raise Misconfigured(
            "MDM_MONGODB_URL is not set and the embedded store is not installed: "
            "pip install 'macromdm[embedded]'"
        )
    return found


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
