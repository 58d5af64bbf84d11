"""One SVG per scenario: requests per second and latency, by the number of connections.

By hand, since nothing else here needs a plotting library. Colours are of a middle brightness, so that they
are readable on a light and on a dark page, whichever of both a viewer says it has.
"""

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10

from tests.load.figures import ONE_PROCESS, SHARES, Figures
from tests.load.scenarios import SCENARIOS

WIDTH, HEIGHT = 760, 330
PANEL, LEFT, TOP, BOTTOM = 290, 60, 88, 278
"""The width of a panel, its left margin, and where its axes begin and end."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #6e7781 }
.title { font-size: 14px; font-weight: 600 }
.grid { stroke: #8b949e; stroke-opacity: .3 }
.target { stroke: #6e7781; stroke-dasharray: 5 4 }
.line { fill: none; stroke-width: 2 }
.one { stroke: #2f81f7 } .one.dot, .one.word { fill: #2f81f7 }
.two { stroke: #d2781e } .two.dot, .two.word { fill: #d2781e }
.word { stroke: none; font-weight: 600 }
.dotted { stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .target { stroke: #9da7b3 } }
"""

Curve = tuple[str, str, list[tuple[int, float]]]
"""Name (empty where another curve has it), classes, and the value at each number of connections."""


def plot(name: str, servers: Sequence[Figures]) -> str:
    """The SVG of one scenario. Each server has one colour in both panels."""
    rates: list[Curve] = []
    times: list[Curve] = []
    for figures, colour in zip(servers, ("one", "two"), strict=False):
        samples = [(n, found[name]) for n, found in sorted(figures.samples.items())]
        rates.append((figures.title, colour, [(n, each.rate) for n, each in samples]))
        times.append((figures.title, colour, [(n, each.p99) for n, each in samples]))
        times.append(("", f"{colour} dotted", [(n, each.p50) for n, each in samples]))
    first = servers[0]
    target = None
    if first.title == ONE_PROCESS and first.yardstick:
        target = SHARES[name] * first.yardstick
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(SCENARIOS[name])}: requests per second and latency by connections</title>",
        f"<style>{STYLE}</style>",
        _text(LEFT - 44, 20, SCENARIOS[name], "title"),
        *_panel(LEFT, "requests per second", rates, target),
        *_panel(LEFT + PANEL + 90, "ms until the answer: p99, and p50 dotted", times, is_log=True),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(
    left: int,
    title: str,
    curves: Sequence[Curve],
    target: float | None = None,
    *,
    is_log: bool = False,
) -> Iterator[str]:
    connections = sorted({n for _, _, points in curves for n, _ in points})
    values = [value for _, _, points in curves for _, value in points]
    ticks = _decades(values) if is_log else _ticks(max([*values, target or 0]))

    def x(number: int) -> float:
        return left + PANEL * (connections.index(number) + 0.5) / len(connections)

    def y(value: float) -> float:
        low, high = ticks[0], ticks[-1]
        share = log10(value / low) / log10(high / low) if is_log else value / high
        return BOTTOM - (BOTTOM - TOP) * share

    yield _text(left - 44, 44, title, "title")
    for tick in ticks:
        yield f'<path class="grid" d="M{left} {y(tick):.1f}h{PANEL}"/>'
        yield _text(left - 8, y(tick) + 4, f"{tick:,g}", anchor="end")
    for number in connections:
        yield _text(x(number), BOTTOM + 20, str(number), anchor="middle")
    yield _text(left + PANEL / 2, BOTTOM + 40, "connections", anchor="middle")
    if target is not None:
        yield f'<path class="target" d="M{left} {y(target):.1f}h{PANEL}"/>'
        yield _text(left + 4, y(target) - 5, f"target {target:,.0f}")
    for place, (name, kind, points) in enumerate(curves):
        yield _text(
            left + PANEL * place / len(curves), 66, f"● {name}" if name else "", f"word {kind}"
        )
        path = "L".join(f"{x(number):.1f} {y(value):.1f}" for number, value in points)
        yield f'<path class="line {kind}" d="M{path}"/>'
        for number, value in points:
            said = f"<title>{number} connections: {value:,.4g}</title>"
            at = f'cx="{x(number):.1f}" cy="{y(value):.1f}"'
            yield f'<circle class="dot {kind.split()[0]}" {at} r="3">{said}</circle>'


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def _ticks(highest: float) -> list[float]:
    """From 0 to a round number that is not below the highest value, in four to five steps."""
    step = 10 ** floor(log10(highest / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if highest / (factor * step) <= 5)
    return [number * step for number in range(ceil(highest / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """The powers of ten around the values."""
    powers = range(floor(log10(min(values))), ceil(log10(max(values))) + 1)
    return [10.0**power for power in powers]
