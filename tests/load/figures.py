"""The figures of a benchmark, their medians, and the tables that show them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from tests.load.scenarios import CONNECTIONS, SCENARIOS, Sample

MANY = 256
"""Connections that must cost little more than the usual number."""

SHARES = {"enroll": 0.11, "idle": 0.25, "queue": 0.25, "drain": 0.20}
"""Targets of one process, in shares of the yardstick."""
ONE_PROCESS = "one process"
CPU_TARGETS = {
    ("checkin", "idle"): 0.6 * 588,
    ("webhook", "idle"): 0.6 * 285,
    ("commands", "queue"): 0.6 * 681,
}
"""Targets of separate services, in microseconds of a request."""
IDLE_TARGET = 450 * 11_000
"""Microseconds of CPU of an Idle in one process, times the yardstick."""
P99_TARGET, MANY_TARGET, MEMORY_TARGET = 60, 0.9, 130

Rows = list[Sequence[str]]


@dataclass(frozen=True)
class Figures:
    """Those of one server: of each scenario by the number of connections, memory in MB by process. What is
    not known is None or empty."""

    title: str = ""
    yardstick: float | None = None
    samples: dict[int, dict[str, Sample]] = field(default_factory=dict)
    start_seconds: float | None = None
    memory_at_rest: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, float]:
        """Requests per second of each scenario."""
        return {name: sample.rate for name, sample in self.samples[CONNECTIONS].items()}

    @property
    def cpu(self) -> dict[str, float]:
        """Microseconds of CPU of a request, of all processes."""
        return {name: sum(each.cpu.values()) for name, each in self.samples[CONNECTIONS].items()}


def median_of(rounds: Sequence[Figures]) -> Figures:
    """The medians of several rounds, of those that had the number of connections."""
    first = rounds[0]
    samples = {
        connections: {
            name: _median_sample(
                [r.samples[connections][name] for r in rounds if connections in r.samples]
            )
            for name in SCENARIOS
        }
        for connections in first.samples
    }
    return replace(
        first,
        samples=samples,
        start_seconds=median_known([each.start_seconds for each in rounds]),
        memory_at_rest=_medians([each.memory_at_rest for each in rounds]),
        memory=_medians([each.memory for each in rounds]),
    )


def median_known(values: Sequence[float | None]) -> float | None:
    """The median of the values that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _medians(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median([values[name] for values in each]) for name in each[0]}


def _median_sample(samples: Sequence[Sample]) -> Sample:
    return Sample(
        samples[0].count,
        median([each.rate for each in samples]),
        median([each.p50 for each in samples]),
        median([each.p99 for each in samples]),
        _medians([each.cpu for each in samples]),
        median([each.load_cpu for each in samples]),
    )


def table(rows: Rows) -> str:
    """Rows as Markdown that is readable as text too: the first one is the head, first cells are names."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(cells)} |\n"

    rule = [f"{'-' * widths[0]}-", *(f"{'-' * width}:" for width in widths[1:])]
    return line(rows[0]) + f"|-{'|-'.join(rule)}|\n" + "".join(map(line, rows[1:]))


def scenario_table(servers: Sequence[Figures]) -> str:
    """Each scenario of each server, with the targets of one process."""
    usual = ("requests/s", "share", "target", "CPU, µs", "p50, ms", "p99, ms")
    rows: Rows = [["", *usual, f"at {MANY}: requests/s", f"of that at {CONNECTIONS}", "p99, ms"]]
    for figures in servers:
        for name, title in SCENARIOS.items():
            sample = figures.samples[CONNECTIONS][name]
            share = figures.yardstick and sample.rate / figures.yardstick
            target = SHARES[name] if figures.title == ONE_PROCESS else None
            cells = [_shown(sample.rate, 0), _shown(share, 3), _shown(target, 2)]
            cells += [_shown(sum(sample.cpu.values()) or None, 0)]
            cells += [_shown(sample.p50), _shown(sample.p99)]
            if MANY in figures.samples:
                many = figures.samples[MANY][name]
                cells += [
                    _shown(many.rate, 0),
                    _shown(many.rate / sample.rate, 2),
                    _shown(many.p99),
                ]
            rows.append(
                [f"{figures.title}: {title}", *cells, *[""] * (len(rows[0]) - 1 - len(cells))]
            )
    return table(rows)


def process_table(figures: Figures) -> str:
    """The CPU of each process of a server, with the targets in brackets."""
    samples = figures.samples[CONNECTIONS]
    processes = list(samples["idle"].cpu)
    rows: Rows = [["CPU of a request, µs", *processes]]
    for name, title in SCENARIOS.items():
        cells = [
            f"{samples[name].cpu[process]:.0f}"
            + (f" ({target:.0f})" if (target := CPU_TARGETS.get((process, name))) else "")
            for process in processes
        ]
        rows.append([title, *cells])
    return table(rows)


def weight_table(servers: Sequence[Figures]) -> str:
    """Start and memory of each process of the servers that are known so well."""
    rows: Rows = [["", "start, s", "memory at rest, MB", "after the load"]]
    for figures in servers:
        for process, megabytes in figures.memory.items():
            at_rest = figures.memory_at_rest[process]
            rows.append(
                [process, _shown(figures.start_seconds), f"{at_rest:.0f}", f"{megabytes:.0f}"]
            )
    return table(rows)


def report(servers: Sequence[Figures]) -> str:
    """All tables."""
    parts = [scenario_table(servers)]
    parts += [
        process_table(each) for each in servers if len(each.samples[CONNECTIONS]["idle"].cpu) > 1
    ]
    if any(each.memory for each in servers):
        parts.append(weight_table(servers))
    notes = [*_notes(servers)]
    return "\n".join([*parts, " ".join(notes) + "\n"])


def _notes(servers: Sequence[Figures]) -> Iterator[str]:
    for figures in servers:
        if figures.yardstick is not None:
            yield f"The yardstick of {figures.title} was {figures.yardstick:,.0f} requests per second."
        if figures.yardstick is not None and figures.title == ONE_PROCESS:
            yield f"An Idle may take {IDLE_TARGET / figures.yardstick:.0f} µs of CPU beside it."
    samples = [each for figures in servers for each in figures.samples[CONNECTIONS].values()]
    busiest = max(each.load_cpu for each in samples)
    yield f"The load itself, webhook receiver included, took {busiest:.0f} µs of CPU per request at most."
    yield (
        f"Other targets: p99 at {CONNECTIONS} connections {P99_TARGET} ms, at {MANY} connections "
        f"{MANY_TARGET} of the requests at {CONNECTIONS}, {MEMORY_TARGET} MB after the load."
    )


def comparison_table(heads: tuple[str, str, str], before: Figures, now: Figures) -> str:
    """Two servers side by side: each scenario by CPU and rate, then weight."""
    pairs: list[tuple[str, float, float]] = []
    for name, title in SCENARIOS.items():
        pairs.append((f"{title}: CPU, µs", before.cpu[name], now.cpu[name]))
        pairs.append((f"{title}: requests/s", before.rates[name], now.rates[name]))
    for what, one, other in (
        ("memory at rest, MB", before.memory_at_rest, now.memory_at_rest),
        ("memory after the load, MB", before.memory, now.memory),
    ):
        pairs.append((what, sum(one.values()), sum(other.values())))
    if before.start_seconds and now.start_seconds:
        pairs.append(("start, s", before.start_seconds, now.start_seconds))
    rows: Rows = [["", *heads]]
    for what, old, new in pairs:
        digits = 0 if old >= 10 else 2
        rows.append([what, _shown(old, digits), _shown(new, digits), _shown(new / old, 2)])
    return table(rows)


def _shown(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
