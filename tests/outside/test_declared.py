"""What the code declares to the outside: settings, metrics, log events, topology, indexes, topics."""

import ast
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.domain.event import EXTRA_TOPICS, Topic
from shared.messaging import topology
from shared.settings.classes import AllSettings
from shared.settings.load import SERVICES, fallback, is_secret, variable
from shared.storage.indexes import all_indexes
from shared.telemetry.metrics import Metrics
from tests.outside.snapshots import as_json, assert_same

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path for folder in ("services", "shared") for path in (ROOT / folder).rglob("*.py")
)
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def test_settings_are_frozen() -> None:
    settings = {
        variable(name): {
            "secret": is_secret(declared),
            "fallback": fallback(declared),
            "of": {
                cls.service: repr(cls.model_fields[name].default)
                for cls in SERVICES
                if name in cls.model_fields
            },
        }
        for name, declared in AllSettings.model_fields.items()
    }

    assert_same("settings.json", as_json(settings))


def test_metrics_are_frozen() -> None:
    """Names, kinds and labels; the help may be said better."""
    metrics = Metrics()
    samples: dict[str, Any] = {}
    for collector in metrics.registry._collector_to_names:
        for family in collector.describe():
            labels = list(getattr(collector, "_labelnames", ()))
            samples[family.name] = {"kind": family.type, "labels": labels}

    assert_same("metrics.json", as_json(samples))


def _logged(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LimitedLog":
            yield str(ast.literal_eval(node.args[0])), "warning", ("limited",)
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in LEVELS and ast.unparse(node.func.value).endswith("log"):
            first = node.args[0]
            name = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
            keys = sorted(keyword.arg or "**" for keyword in node.keywords)
            yield str(name), node.func.attr, tuple(keys)


def test_log_events_are_frozen() -> None:
    """Operators search for them, and alert on them."""
    found = sorted({each for path in MODULES for each in _logged(path)})

    assert_same(
        "log_events.txt",
        "".join(f"{name} {level} {' '.join(keys)}\n" for name, level, keys in found),
    )


def test_the_topology_of_the_broker_is_frozen() -> None:
    declared = {
        "exchange": topology.EVENTS_EXCHANGE,
        "queues": [asdict(queue) for queue in topology.QUEUES],
        "routing_key": topology.routing_key(Topic.CONNECT, 7),
    }

    assert_same("topology.json", as_json(declared))


def test_indexes_are_frozen() -> None:
    indexes = sorted(
        (
            asdict(index) | {"expire_after": index.expire_after is not None}
            for index in all_indexes()
        ),
        key=repr,
    )

    assert_same("indexes.json", as_json(indexes))


def test_topics_are_frozen() -> None:
    assert_same(
        "topics.txt",
        "".join(f"{topic} {'opt-in' if topic in EXTRA_TOPICS else 'always'}\n" for topic in Topic),
    )
