"""Every route of the API goes through `ApiAuth`, which makes none without a scope and none that
changes something without an action for the audit log (`tests/unit/shared/web/test_api_access.py`)."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "services").rglob("*.py"))
ADDERS = {"get", "post", "put", "patch", "delete", "api_route", "add_api_route", "add_route"}
OF_CLIENTS = ("/v1/", "/push/", "/migration")


def calls(path: Path) -> Iterator[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def adds_a_route_of_clients(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in ADDERS or not call.args:
        return False
    return any(
        isinstance(node, ast.Constant) and str(node.value).startswith(OF_CLIENTS)
        for node in ast.walk(call.args[0])
    )


def makes_a_router(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in {"APIRouter", "FastAPI"}


def test_routes_of_clients_stand_on_routers_of_the_api_only() -> None:
    of_clients = [path for path in MODULES if any(map(adds_a_route_of_clients, calls(path)))]
    forgetful = [path.name for path in of_clients if any(map(makes_a_router, calls(path)))]

    assert len(of_clients) > 1
    assert not forgetful
