"""Routes that the edge calls without FastAPI, which costs more than the work of a small request.

FastAPI describes them in the OpenAPI document, and answers other methods of their paths.
"""

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import ASGIApp


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and nothing else, at a path without parameters."""

    def direct(self) -> ASGIApp:
        """The route as plain ASGI, with the answers that it has by FastAPI."""
        raise NotImplementedError


def direct_routes(router: APIRouter) -> dict[tuple[str, str], ASGIApp]:
    """The routes of a router that the edge calls itself, by method and path."""
    return {
        (method, route.path): app
        for route in router.routes
        if isinstance(route, DirectRoute)
        for app in [route.direct()]
        for method in route.methods or ()
    }
