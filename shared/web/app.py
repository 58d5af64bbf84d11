"""Makes one FastAPI app of one or more services, and the edge in front of it.

The edge is plain ASGI, so that a request costs little: it collapses `//` (clients with a closing
slash in their SERVER_URL), refuses bodies over the limit before anybody reads them, and answers 503
while too many requests are under way.
"""

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.domain.errors import TooLarge
from shared.telemetry.metrics import Metrics
from shared.web import problems, version
from shared.web.answers import RETRY_AFTER, JsonAnswer
from shared.web.api_auth import with_tokens
from shared.web.body import declared_length
from shared.web.service import Service

MOST_UNDER_WAY = 2000
"""Requests that one process works on at once; the next ones hear 503."""


class MdmApp(FastAPI):
    """FastAPI, whose document says only what is answered."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = with_tokens(_with_components(_without_422(super().openapi())))
        return self.openapi_schema


def _without_422(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI announces its own answer to unusable parameters; ours is 400 (`problems`)."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = document.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document


def _with_components(document: dict[str, Any]) -> dict[str, Any]:
    """Move `x-components`, which a route may give with the schema of its body, to their place."""
    found: dict[str, Any] = {}
    for path in document["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                found |= content.get("schema", {}).pop("x-components", {})
    if found:
        document.setdefault("components", {}).setdefault("schemas", {}).update(found)
    return document


def create_app(services: Sequence[Service], *, max_body: int, metrics: Metrics | None) -> "Edge":
    """One app, one OpenAPI document (at /docs) for these services."""
    app = MdmApp(
        title="MacroMDM",
        version=version.VERSION,
        description="Apple device management: MicroMDM's API and events, nothing lost.",
        default_response_class=JsonAnswer,
        redoc_url=None,
        redirect_slashes=False,  # a device or `curl` would not follow, and the scheme may be wrong
        openapi_tags=[
            *(dict(tag) for service in services for tag in service.openapi_tags),
            version.TAG,
        ],
    )
    app.state.metrics = metrics
    problems.install(app)
    for service in services:
        app.include_router(service.router)
    app.include_router(version.router)
    return Edge(app, max_body=max(max_body, *(service.max_body for service in services)))


class Edge:
    """What every request passes before it comes to a route."""

    def __init__(
        self, app: FastAPI, *, max_body: int, most_under_way: int = MOST_UNDER_WAY
    ) -> None:
        self.app = app
        self._inner: ASGIApp = app
        self._max_body = max_body
        self._most_under_way = most_under_way
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._under_way >= self._most_under_way:
            await unavailable("too many requests at once")(scope, receive, send)
            return
        if "//" in scope["path"]:
            scope["path"] = re.sub("/{2,}", "/", scope["path"])
        length = declared_length(scope["headers"])
        if length is None or length > self._max_body:
            receive = self._limited(length or 0, receive)
        self._under_way += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            self._under_way -= 1

    def _limited(self, declared: int, receive: Receive) -> Receive:
        """Raises inside the route that reads the body, which knows how to say it to its client."""
        received = declared

        async def receive_limited() -> Message:
            nonlocal received
            if received <= self._max_body:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= self._max_body:
                    return message
            raise TooLarge(f"the body is over {self._max_body} bytes")

        return receive_limited


def unavailable(reason: str) -> JsonAnswer:
    """503, come again."""
    return problems.problem(503, reason, headers={"Retry-After": RETRY_AFTER})


class Gate:
    """Answers 503 until it is given the app that it stands in front of."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await unavailable("the service is starting")(scope, receive, send)
