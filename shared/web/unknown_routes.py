"""What is said of a path that has no route, or none for the method that was asked for."""

from fastapi import Request
from starlette.routing import Match

_OF_MICROMDM = ("/v1/apps", "/v1/blueprints", "/v1/dep", "/v1/users", "/repo")
_SHOWN = 100
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def no_route(request: Request) -> str:
    """The detail of a 404."""
    path = request.url.path
    if path.startswith(_OF_MICROMDM):
        return f"this version has not MicroMDM's route {path[:_SHOWN]} (docs/differences.md)"
    return f"there is no route {request.method} {path[:_SHOWN]}; GET /docs shows all"


def methods_of(request: Request) -> set[str]:
    """Every method that a path can be asked by, whichever route has it (RFC 9110, 15.5.6)."""
    return {method for method in _METHODS if _is_served(request, method)}


def _is_served(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
