"""`python -m services`, writing down which calls keep its event loop busy: for `tests.load.bench_strangers`.

Each call of the loop that takes over a millisecond of its thread's own CPU is a line of the file that
TIMED_CALLS names. The loop is asyncio's, since uvloop's calls cannot be timed from Python.
"""

import asyncio
import os
import sys
import time
from asyncio import events

import uvloop

from services.__main__ import main

LONG = 0.001


def time_calls(path: str) -> None:
    """Time every call of every loop that is made from now on."""
    run = events.Handle._run
    out = open(path, "a", buffering=1)  # noqa: SIM115 - as long as the process

    def timed(handle: events.Handle) -> None:
        began = time.thread_time()
        run(handle)
        if (took := time.thread_time() - began) > LONG:
            out.write(f"{took * 1e3:.2f} {handle!r}\n")

    events.Handle._run = timed  # type: ignore[method-assign]
    uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]


if __name__ == "__main__":
    time_calls(os.environ["TIMED_CALLS"])
    sys.exit(main(sys.argv[1:], os.environ))
