"""A folder is a subject of at most twelve files, arrows go down only, and limits are no knives."""

import ast
from collections import Counter, defaultdict

from tests.architecture.sources import (
    ROOT,
    SOURCES,
    functions_of,
    imports,
    module_of,
    relative,
    tree_of,
)

MOST_FILES = 12
MOST_LINES = 300
LONG: dict[str, str] = {}
"""Files that may be longer: why."""

SMALL = 60
KEPT_SMALL: dict[str, str] = {
    "services/runtime/store_health.py": "a promise to operators, with tests of its own",
    "shared/storage/access/profiles.py": "the adapter of one port and collection",
}
"""Files under SMALL lines with one importer: why they are files of their own."""
ONE_OF_EACH = frozenset({"routes", "feature"})
"""Files that each package has, whatever their size; so has each message (folders `messages`)."""

MOST_ARGUMENTS = 5
MOST_OF_CONSTRUCTORS = 8
MANY_ARGUMENTS = {
    "services/checkin/enrollment/feature.py::enrollment_feature": "wiring",
    "services/commands/queue/feature.py::queue_feature": "wiring",
}
"""Functions that may have more arguments: why."""

WEB_FRAMEWORK = {"fastapi", "starlette"}
LAYERS = {
    "services.checkin": [
        {"app"},
        {"pipeline", "renewal", "review"},
        {"enrollment", "authorization"},
        {"scep", "refusals"},
        {"journal", "exchange"},
        {"messages"},
        {"answers"},
    ],
    "services.commands": [
        {"app"},
        {"submit", "access", "devices", "identities", "migration", "profiles"},
        {"jobs", "upkeep"},
        {"history"},
        {"queue"},
    ],
    "services.push": [{"app"}, {"routes", "sweep", "intake", "certificates"}, {"send"}],
    "services.webhook": [
        {"app", "routes"},
        {"history"},
        {"partitions", "subscriptions", "upkeep"},
        {"delivery"},
        {"endpoints"},
        {"forms"},
    ],
}


def test_a_folder_has_at_most_twelve_files() -> None:
    files = Counter(
        path.parent for path in SOURCES if path.name not in ("__init__.py", "__main__.py")
    )

    assert not {relative(folder): n for folder, n in files.items() if n > MOST_FILES}


def test_only_files_with_a_reason_are_too_long_to_read_at_once() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}

    assert {name for name, length in lengths.items() if length > MOST_LINES} == LONG.keys()


def test_only_files_with_a_reason_are_small_and_serve_one_other() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for module, imported in imports().items():
        for each in imported:
            importers[each].add(module)
    small = {
        relative(path)
        for path in SOURCES
        if path.name not in ("__init__.py", "__main__.py")
        and len(path.read_text().splitlines()) < SMALL
        and path.stem not in ONE_OF_EACH
        and path.parent.name != "messages"
        and len(importers[module_of(path)]) == 1
    }

    assert small == KEPT_SMALL.keys()


def package_of() -> dict[str, str]:
    """Module -> its package. A file at the root of a service counts for itself, as in LAYERS."""
    return {
        name: name if name.rpartition(".")[0] in LAYERS else module_of(path.parent / "__init__.py")
        for path in SOURCES
        for name in [module_of(path)]
    }


def test_packages_are_in_no_circle() -> None:
    packages: dict[str, set[str]] = defaultdict(set)
    of = package_of()
    for module, imported in imports().items():
        packages[of[module]] |= {of[each] for each in imported} - {of[module]}

    assert not {name for name in packages if name in reached(packages, name)}


def reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        new = arrows.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def test_inside_a_service_arrows_go_down_only() -> None:
    up = set()
    for service, layers in LAYERS.items():
        depth = {f"{service}.{name}": n for n, layer in enumerate(layers) for name in layer}
        for module, imported in imports().items():
            for each in imported:
                a, b = (".".join(name.split(".")[:3]) for name in (module, each))
                if a in depth and b in depth and a != b and depth[a] >= depth[b]:
                    up.add(f"{module} -> {each}")

    assert not up


def test_every_package_of_a_service_has_a_layer() -> None:
    packages = {
        module_of(path)
        for path in SOURCES
        if module_of(path).count(".") == 2 and module_of(path).rpartition(".")[0] in LAYERS
    }

    assert packages == {
        f"{service}.{name}"
        for service, layers in LAYERS.items()
        for layer in layers
        for name in layer
    }


def test_only_routes_apps_and_the_web_package_know_the_web_framework() -> None:
    found = set()
    for path in SOURCES:
        name = relative(path)
        edges = ("app", "feature")
        if name.startswith("shared/web/") or path.stem in edges or path.stem.endswith("routes"):
            continue
        for node in ast.walk(tree_of(path)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if WEB_FRAMEWORK & {(each or "").split(".")[0] for each in modules}:
                found.add(name)

    assert not found


def test_only_functions_with_a_reason_have_many_arguments() -> None:
    many = set()
    for path in SOURCES:
        for node in functions_of(tree_of(path)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(each.arg not in ("self", "cls") for each in arguments)
            is_built = node.name == "__init__" or node.name.startswith("build")
            if count > (MOST_OF_CONSTRUCTORS if is_built else MOST_ARGUMENTS):
                many.add(f"{relative(path)}::{node.name}")

    assert many == MANY_ARGUMENTS.keys()


def test_no_dataclass_only_bundles_dependencies() -> None:
    named = {
        f"{relative(path)}::{node.name}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Parts", "Ports"))
    }

    assert not named


def test_the_picture_of_the_architecture_shows_every_package_of_the_services() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    missing = [
        f"{service}.{name}"
        for service, layers in LAYERS.items()
        for name in set().union(*layers) - {"app", "routes"}
        if name not in picture
    ]

    assert not missing
