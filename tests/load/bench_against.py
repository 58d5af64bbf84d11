"""`make bench ARGS="--all --against DIR"`: this checkout beside another one, under one and the same driver.

Both run by turns, so that what else the machine does affects both alike; each figure is the median of all
rounds. DIR has a `.venv` of its own. CPU and memory are those of all processes of a build together.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.load.figures import Figures, comparison_table, median_of
from tests.load.machine import Build, measured
from tests.load.scenarios import Size, say, show


def by_turns(names: Sequence[str], rounds: int, run: Callable[[str], Figures]) -> list[Figures]:
    """The medians of each."""
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            show(f"--- round {number + 1} of {rounds}: {name}")
            found[name].append(run(name))
    return [median_of(each) for each in found.values()]


def main(build: Build, against: Path, size: Size, rounds: int) -> None:
    builds = {"before": replace(build, checkout=against.resolve()), "now": build}
    before, now = by_turns([*builds], rounds, lambda name: measured(builds[name], size))
    say(comparison_table(("before", "now", "ratio"), before, now))
