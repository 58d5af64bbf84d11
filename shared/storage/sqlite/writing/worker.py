"""The thread that commits, and how it speaks to the event loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

Job = Callable[[], None]


class Worker:
    """Does one job after the other. A daemon: a disk that never answers must not keep the process from
    ending."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        Thread(target=self._run, name=name, daemon=True).start()

    def do(self, job: Job) -> None:
        self._jobs.put(job)

    def end(self) -> None:
        """After the jobs that it has."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *values: object) -> None:
    """Call it on the event loop; where that is closed, nobody waits any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *values)
