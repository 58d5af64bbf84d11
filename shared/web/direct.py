"""Routes that the edge calls without FastAPI, which costs more than the work of a small request.

FastAPI describes them in the OpenAPI document, and answers other methods of their paths.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import Receive, Scope, Send

from shared.web.problems import on_bug

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Begin = Callable[[Scope, bytes, Callable[[], bool]], "asyncio.Future[Any] | None"]
"""Takes a request of a device, its small body, and a function that says whether the device is gone. Returns
the DeviceAnswer to be; None for a request that must be served by a task, of which nothing but the state of
its scope may have changed. Raises MdmError."""


class DirectApp:
    """A route as plain ASGI, with the answers that it has by FastAPI. `answering` makes a handler answer the
    errors that are no fault of ours. Small requests that came whole are served by `begin` where there is
    one, else by `respond` (docs/adr/0034)."""

    def __init__(
        self,
        endpoint: Handler,
        answering: Callable[[Handler], Handler],
        begin: Begin | None = None,
    ) -> None:
        self.respond = answering(endpoint)
        self.begin = begin
        self._answering = answering
        self._app = ServerErrorMiddleware(self._answer, handler=on_bug)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def failed(self, error: BaseException) -> "DirectApp":
        """The answer to a request that ended with this error."""

        async def fail(_request: Request) -> Response:
            raise error

        return DirectApp(fail, self._answering)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.respond(Request(scope, receive, send))
        await response(scope, receive, send)


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and nothing else, at a path without parameters."""

    def direct(self) -> DirectApp:
        raise NotImplementedError


def direct_routes(router: APIRouter) -> dict[tuple[str, str], DirectApp]:
    """The routes of a router that the edge calls itself, by method and path."""
    return {
        (method, route.path): app
        for route in router.routes
        if isinstance(route, DirectRoute)
        for app in [route.direct()]
        for method in route.methods or ()
    }
