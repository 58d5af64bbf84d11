"""`make bench`: how fast the whole system serves devices and API clients, and what it weighs.

RabbitMQ, the store, each service in a process of its own (or, with `--all`, one process with the
in-process broker), a webhook receiver, and this driver share the machine. All messages are signed
before a clock starts. Every number is of a bounded run; the last lines are figures, not verdicts.
`--against DIR` does the same with the build of another checkout, by turns.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.load import (
    bench_against,
    bench_bodies,
    bench_convert,
    bench_fleet,
    bench_large,
    bench_queue,
    bench_scep,
    bench_store,
    bench_strangers,
)
from tests.load.machine import Build, measured
from tests.load.scenarios import CONNECTIONS, Size, say
from tests.support.harness.processes import free_port, spawn


def bare_route() -> float | None:
    """What a bare FastAPI route that reads its body answers to wrk here: the machine's yardstick."""
    if shutil.which("wrk") is None:
        say("wrk is not installed, so there is no yardstick: apt-get install wrk")
        return None
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="macromdm-bench-"))
    command = [sys.executable, "-m", "tests.load.bare_route", str(port)]
    server = spawn(command, {"PATH": "/usr/bin"}, folder / "bare.log")
    try:
        time.sleep(2)
        script = Path(__file__).with_name("put.lua")
        load = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d5", "-s", str(script)]
        done = subprocess.run(
            [*load, f"http://127.0.0.1:{port}/"], capture_output=True, timeout=30, check=True
        )
        [line] = [x for x in done.stdout.decode().splitlines() if x.startswith("Requests/sec")]
        return float(line.split(":")[1])
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="the four services in one process")
    parser.add_argument("--driver", choices=["motor", "pymongo"], default="motor")
    parser.add_argument("--devices", type=int, default=Size.devices)
    parser.add_argument("--scep", action="store_true", help="SCEP enrollments, and nothing else")
    parser.add_argument("--large", action="store_true", help="a million devices, and nothing else")
    parser.add_argument("--queue", action="store_true", help="connects beside a long queue")
    parser.add_argument("--store", action="store_true", help="holds of the event loop by the store")
    parser.add_argument("--strangers", action="store_true", help="attacks, and nothing else")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another checkout")
    parser.add_argument("--rounds", type=int, default=3, help="of --against")
    given = parser.parse_args()
    build = Build(given.all, given.driver)
    size = Size(devices=given.devices)
    if given.against:
        bench_against.main(build, given.against, size, given.rounds)
        return
    alone = {
        "scep": bench_scep.main,
        "large": bench_large.main,
        "queue": bench_queue.main,
        "store": bench_store.main,
        "strangers": bench_strangers.main,
    }
    for name, run in alone.items():
        if getattr(given, name):
            run()
            return
    bench_convert.main()
    bench_bodies.main()
    bench_fleet.main()
    yardstick = bare_route()
    figures = measured(build, size)
    if yardstick is not None:
        say(f"bare FastAPI route on this machine: {yardstick:.0f}/s")
        for name in ("enroll", "idle", "queue", "drain"):
            say(f"  {name}: {figures.rates[name] / yardstick:.3f} of it")


if __name__ == "__main__":
    main()
