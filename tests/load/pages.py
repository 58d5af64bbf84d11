"""Writes the figures of a benchmark into docs/performance.md, and its plots beside it."""

from collections.abc import Sequence
from pathlib import Path

from deploy.local.generated import within, write_or_check
from tests.load.environment import ROOT, described
from tests.load.figures import Figures, report
from tests.load.plots import plot
from tests.load.scenarios import SCENARIOS

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "plots"


def figures_text(servers: Sequence[Figures]) -> str:
    """The figures with what they belong to, as they are shown and written."""
    return f"{described()}.\n\n{report(servers)}"


def write(servers: Sequence[Figures], text: str, page: Path = PAGE, plots: Path = PLOTS) -> None:
    """Write the block `figures` of the page, and one plot for each scenario."""
    files = {plots / f"{name}.svg": plot(name, servers) for name in SCENARIOS}
    images = "".join(f"![{SCENARIOS[name]}](plots/{name}.svg)\n\n" for name in SCENARIOS)
    files[page] = within(page, "figures", f"\n{text}\n{images}")
    write_or_check(files, [], "")


def write_block(name: str, text: str, page: Path = PAGE) -> None:
    """Write another block of the page."""
    write_or_check({page: within(page, name, f"\n{text}\n")}, [], "")
