"""How long requests with large bodies keep the event loop from everybody else.

The commands service on fakes, behind the edge, in this process: one client sends the body, and meanwhile a
clock in the loop notes how late it is. Figures, no verdicts. `make bench ARGS=--bodies`, or

    python -m tests.load.bench_bodies
"""

import asyncio
import gc
import time
from collections.abc import Iterator

from tests.support.commands_world import World
from tests.unit.commands.submit.test_command_routes import Client

MIB = 1024**2
LIST, COMMAND = "/v1/devices", "/v1/commands"
TICK = 0.001
RUNS = 3
"""The best one counts, since neighbours on the machine disturb."""


def filled(front: bytes, piece: bytes, back: bytes, size: int) -> bytes:
    return front + piece * ((size - len(front) - len(back)) // len(piece)) + back


def bodies(size: int) -> Iterator[tuple[str, bytes]]:
    yield "numbers", filled(b'{"a":[', b"1,", b"1]}", size)
    yield "numbers, key doubled at the end", filled(b'{"a":[', b"1,", b'1],"a":1}', size)
    yield "objects", filled(b'{"a":[', b'{"a":1},', b"1]}", size)
    yield "objects with doubled keys", filled(b'{"a":[', b'{"a":1,"a":1},', b"1]}", size)
    yield "ids", filled(b'{"filter_udid":[', b'"0123456789abcdef01234567",', b'"x"]}', size)
    yield "one text", filled(b'{"a":"', b"x", b'"}', size)
    yield "true", filled(b'{"a":[', b"true,", b"1]}", size)


async def lateness(stop: asyncio.Event) -> float:
    """The longest time, in seconds, for which the loop came to nothing else."""
    worst = 0.0
    while not stop.is_set():
        began = time.perf_counter()
        await asyncio.sleep(TICK)
        worst = max(worst, time.perf_counter() - began - TICK)
    return worst


async def measure(client: Client, path: str, body: bytes) -> tuple[int, float, float]:
    """Status, seconds until the answer, longest time on the loop."""
    stop = asyncio.Event()
    clock = asyncio.create_task(lateness(stop))
    await asyncio.sleep(10 * TICK)
    began = time.perf_counter()
    answer = await client.http.request("POST", path, content=body)
    taken = time.perf_counter() - began
    stop.set()
    return answer.status_code, taken, await clock


async def run() -> None:
    client = Client(World())
    gc.collect()
    gc.freeze()  # as the server does once it is ready
    print(f"{'body':56} {'':>4} {'answered':>11} {'loop held':>10}")
    for path, size in ((LIST, MIB), (LIST, 2 * MIB), (COMMAND, 11 * MIB)):
        for name, body in bodies(size):
            runs = [await measure(client, path, body) for _ in range(RUNS)]
            taken, held = min(run[1] for run in runs), min(run[2] for run in runs)
            what = f"{path}, {size // MIB} MiB, {name}"
            print(f"{what:56} {runs[0][0]:>4} {taken * 1000:>8.0f} ms {held * 1000:>7.1f} ms")
    await client.http.aclose()


def main() -> None:
    asyncio.run(run())


if __name__ == "__main__":
    main()
