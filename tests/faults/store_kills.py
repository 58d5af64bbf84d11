"""Kill -9 of a process that writes to a store, again and again; run by `test_store_kills.py`.

    python -m tests.faults.store_kills FOLDER ROUNDS SEED

This process has everything imported, and forks each writer: a round takes a fraction of a second. Each
writer looks at what the one before left, and goes on.
"""

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shared.concurrency.clock import SystemClock
from shared.storage.sqlite import open_database
from shared.storage.sqlite.engine.wal import CommitBounds
from tests.faults.store_load import INDEXES, Account, check_file, everything, lines_to, load

BOUNDS = CommitBounds(checkpoint_frames=150, unseen_bytes=40_000)
"""A checkpoint every few milliseconds."""
LONGEST = 0.12
"""Seconds of writing in one round, at the most."""
READY = b"ready\n"


async def write(folder: Path, account: Account, tell: Callable[[bytes], object], seed: int) -> None:
    """Check what is there, say so, and write until killed; SIGTERM closes the store before that."""
    database = open_database(folder, SystemClock(), BOUNDS)
    await database.ensure(INDEXES)
    report = lines_to(tell)
    ended = account.check(await everything(database))
    check_file(database.file)
    report("done", ended)
    tell(READY)
    work = asyncio.create_task(load(database, account.known | ended, report, seed))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    await asyncio.wait({work})
    await database.close()
    await asyncio.Event().wait()


@dataclass
class Rounds:
    """The account over all rounds."""

    folder: Path
    chance: random.Random
    account: Account = field(default_factory=Account)
    acknowledged: int = 0
    early: int = 0

    def run(self) -> None:
        receiving, sending = os.pipe()
        seed = self.chance.randrange(1 << 30)
        child = os.fork()
        if child == 0:
            self._in_child(sending, seed)
        os.close(sending)
        with os.fdopen(receiving, "rb") as lines:
            self._kill(child, lines.readline)
            for line in lines:
                self._take(line)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise SystemExit("a writer ended by itself")

    def _in_child(self, sending: int, seed: int) -> None:
        def tell(line: bytes) -> None:
            os.write(sending, line)

        try:
            asyncio.run(write(self.folder, self.account, tell, seed))
        except BaseException:  # noqa: BLE001 - the process must not go on as a copy of its parent
            traceback.print_exc()
        finally:
            os._exit(3)

    def _kill(self, child: int, next_line: Callable[[], bytes]) -> None:
        if self.chance.random() < 0.1:  # while it opens the store, or looks at it
            self.early += 1
            time.sleep(self.chance.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            return
        while (line := next_line()) not in (READY, b""):
            self._take(line)
        until = time.monotonic() + self.chance.uniform(0, LONGEST)
        while time.monotonic() < until and (line := next_line()):
            self._take(line)
        if self.chance.random() < 0.2:  # while it closes the store
            os.kill(child, signal.SIGTERM)
            time.sleep(self.chance.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)

    def _take(self, line: bytes) -> None:
        if line == READY or not line.endswith(b"\n"):
            return
        self.acknowledged += line.startswith(b'["done"')
        self.account.take(line.decode())


def main(folder: Path, rounds: int, seed: int) -> None:
    run = Rounds(folder, random.Random(seed))
    for _ in range(rounds):
        run.run()
    print(f"{rounds} kills, {run.early} of them early; {run.acknowledged} operations acknowledged")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
