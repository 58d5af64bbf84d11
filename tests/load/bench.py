"""`make bench`: how fast the whole system serves devices and API clients, and what it weighs.

RabbitMQ, the store, each service in a process of its own (and once more everything in one process, as
`make run` does), a webhook receiver, and this driver share the machine. All messages are signed before a
clock starts. Every number is of a bounded run. Figures with their targets, no verdicts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
    bench_webhooks,
)
from tests.load.elsewhere import KEY_VARIABLE, Access, measured_at
from tests.load.environment import ROOT
from tests.load.figures import MANY, Figures, median_known, median_of
from tests.load.machine import Build, bare_route, measured
from tests.load.pages import figures_text, write
from tests.load.scenarios import CONNECTIONS, Size, say

Run = Callable[[Sequence[int]], Figures]
"""A run of all scenarios on some numbers of connections."""

OF_PLOTS = (1, 8, 64, 128)
"""Connections beside those of the table."""
ALONE = {
    "convert": (bench_convert.main, "requests that become commands, on one core"),
    "bodies": (bench_bodies.main, "holds of the event loop by large bodies"),
    "fleet": (bench_fleet.main, "one command for 10,000 devices; the cost of a long history"),
    "queue": (bench_queue.main, "connects beside a long queue"),
    "scep": (bench_scep.main, "SCEP enrollments"),
    "store": (bench_store.main, "holds of the event loop by the store"),
    "webhooks": (bench_webhooks.main, "events a second to receivers, some of which hang"),
    "strangers": (bench_strangers.main, "the most expensive requests of strangers"),
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="make bench", description=__doc__)
    made.add_argument("--all", action="store_true", help="only the four services in one process")
    made.add_argument("--services", action="store_true", help="only the separate services")
    made.add_argument("--driver", choices=["motor", "pymongo"], default="motor")
    made.add_argument("--devices", type=int, default=Size.devices)
    made.add_argument("--rounds", type=int, help="medians of so many; 3 by turns, otherwise 1")
    made.add_argument(
        "--write", action="store_true", help="figures and plots into docs/, at more connections"
    )
    made.add_argument("--against", metavar="DIR|URL", help="another checkout, or a running server")
    url = made.add_argument_group("--against URL", f"API key: {KEY_VARIABLE} or --api-key-file")
    url.add_argument("--api-key-file", type=Path)
    url.add_argument("--ca", type=Path, default=ROOT / ".run" / "bench-ca", help="folder")
    url.add_argument("--sink", metavar="HOST:PORT", help="receive the server's webhooks there")
    url.add_argument("--pid", type=int, help="its process, where it is on this machine")
    large = made.add_argument_group("--large")
    large.add_argument("--large", action="store_true", help="beside a large fleet, by turns")
    large.add_argument("--enrollments", type=int, default=bench_large.ENROLLMENTS)
    large.add_argument("--commands", type=int, default=bench_large.COMMANDS)
    large.add_argument("--folder", type=Path, help="keep the large store there for the next run")
    alone = made.add_argument_group("these, and nothing else").add_mutually_exclusive_group()
    for name, (_, about) in ALONE.items():
        alone.add_argument(f"--{name}", action="store_true", help=about)
    return made


def builds(given: argparse.Namespace) -> list[Build]:
    both = given.all == given.services
    return [Build(is_all, given.driver) for is_all in (True, False) if both or given.all == is_all]


def median_figures(run: Run, rounds: int, more: Sequence[int] = ()) -> Figures:
    """The medians of some rounds, each beside the yardstick of its minute; the first one has `more`
    connections too."""
    found, yardsticks = [], [bare_route()]
    for number in range(rounds):
        found.append(run((CONNECTIONS, MANY, *(more if number == 0 else ()))))
        yardsticks.append(bare_route())
    return replace(median_of(found), yardstick=median_known(yardsticks))


def main(arguments: list[str]) -> None:
    given = parser().parse_args(arguments)
    for name, (run, _) in ALONE.items():
        if getattr(given, name):
            run()
            return
    size = Size(devices=given.devices)
    if given.large:
        fleet = bench_large.Fleet(given.enrollments, given.commands)
        bench_large.main(fleet, size, given.rounds or 3, given.folder, is_written=given.write)
    elif given.against and "://" in given.against:
        access = Access(given.against, given.api_key_file, given.ca, given.sink, given.pid)
        elsewhere = partial(measured_at, access, size)
        say(figures_text([median_figures(elsewhere, given.rounds or 1)]))
    elif given.against:
        for build in builds(given):
            bench_against.main(build, Path(given.against), size, given.rounds or 3)
    else:
        more = OF_PLOTS if given.write else ()
        servers = [
            median_figures(partial(measured, build, size), given.rounds or 1, more)
            for build in builds(given)
        ]
        text = figures_text(servers)
        say(text)
        if given.write:
            write(servers, text)


if __name__ == "__main__":
    main(sys.argv[1:])
