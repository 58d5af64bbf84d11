"""`make bench ARGS="--all --against DIR"`: this checkout beside another one, under one and the same driver.

Both run by turns, so that what else the machine does meets both alike; each figure is the median of all
rounds. DIR has a `.venv` of its own. CPU and memory are those of all processes of a build together.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median

from tests.load.machine import Build, Figures, measured
from tests.load.scenarios import Size, say


def main(build: Build, against: Path, size: Size, rounds: int) -> None:
    builds = {"before": replace(build, checkout=against.resolve()), "now": build}
    figures: dict[str, list[Figures]] = {name: [] for name in builds}
    for number in range(rounds):
        for name in sorted(builds, reverse=number % 2 == 1):
            say(f"--- round {number + 1} of {rounds}: {name}")
            figures[name].append(measured(builds[name], size))
    show(figures["before"], figures["now"])


def show(before: list[Figures], now: list[Figures]) -> None:
    say(f"medians of {len(now)} rounds             before       now     ratio")
    for phase in now[0].rates:
        line(f"{phase}, CPU us/request", *([f.cpu[phase] for f in each] for each in (before, now)))
        line(f"{phase}, requests/s", *([f.rates[phase] for f in each] for each in (before, now)))
    line("memory at rest, MB", *([f.megabytes_at_rest for f in each] for each in (before, now)))
    line("memory after it, MB", *([f.megabytes for f in each] for each in (before, now)))
    line("start, s", *([f.start_seconds for f in each] for each in (before, now)))


def line(what: str, before: list[float], now: list[float]) -> None:
    old, new = median(before), median(now)
    digits = 0 if old >= 10 else 2
    say(f"{what:26} {old:10.{digits}f} {new:10.{digits}f} {new / old:8.2f}")
