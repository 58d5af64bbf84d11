"""Makes one FastAPI app of one or more services, and the edge in front of it.

The edge is plain ASGI, so that a request costs little: it collapses `//` (clients with a closing
slash in their SERVER_URL), refuses bodies over the limit before they are read, and answers 503
while too many requests are under way or their bodies are too many bytes.
"""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.telemetry.metrics import Metrics
from shared.web import problems, version
from shared.web.answers import RETRY_AFTER, JsonAnswer
from shared.web.api.paths import routed
from shared.web.client_address import ClientAddresses, Network, source_of
from shared.web.framing import declared_length, has_body
from shared.web.server.bodies import (
    DEFAULT_BUDGET,
    MOST_UNDER_WAY,
    TOO_MANY,
    BodyBudget,
    IncomingBody,
    UnderWay,
)
from shared.web.server.docs import add_docs
from shared.web.server.protocol import TakeWhole
from shared.web.server.service import Service
from shared.web.server.whole import WholeRequests


def create_app(
    services: Sequence[Service],
    *,
    max_body: int,
    metrics: Metrics | None,
    body_budget: int = DEFAULT_BUDGET,
    proxies: Sequence[Network] = (),
) -> "Edge":
    """One app of these services, with the OpenAPI document of all services at /docs."""
    app = FastAPI(
        default_response_class=JsonAnswer,
        openapi_url=None,  # `add_docs` instead, as for the page: it names no foreign host
        redirect_slashes=False,  # a device or `curl` would not follow, and the scheme may be wrong
    )
    app.state.metrics = metrics
    app.state.note_refused = None
    problems.install(app)
    for service in services:
        app.include_router(service.router)
        app.state.note_refused = service.note_refused or app.state.note_refused
    app.include_router(version.router)
    add_docs(app)
    budget = BodyBudget(body_budget)
    if metrics is not None:
        metrics.watch(metrics.request_body_bytes, lambda: budget.held)
    largest = max(max_body, *(service.max_body for service in services))
    addresses = ClientAddresses(proxies)
    edge = Edge(app, max_body=largest, budget=budget, addresses=addresses)
    whole = WholeRequests(budget, edge.under_way, addresses, app, largest)
    for service in services:
        edge.direct |= service.direct
        edge.whole |= whole.of(service.direct)
    return edge


class Edge:
    most_under_way = MOST_UNDER_WAY

    def __init__(
        self, app: FastAPI, *, max_body: int, budget: BodyBudget, addresses: ClientAddresses
    ) -> None:
        self.app = app
        self._inner: ASGIApp = app
        self._max_body = max_body
        self.budget = budget
        self._addresses = addresses
        self.under_way = UnderWay(self.most_under_way)
        self.direct: dict[tuple[str, str], ASGIApp] = {}
        """Routes that are called without FastAPI, by method and path."""
        self.whole: dict[tuple[str, bytes], TakeWhole] = {}
        """The same for requests that came in one piece: these are not given to the edge."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.under_way.count >= self.under_way.most:
            await unavailable(TOO_MANY)(scope, receive, send)
            return
        raw_path = scope["raw_path"]
        if b"%" in raw_path or b"//" in raw_path:
            scope["path"] = routed(raw_path)
        inner = self.direct.get((scope["method"], scope["path"]), self._inner)
        scope["app"] = self.app
        self.under_way.count += 1
        try:
            if has_body(scope["headers"]):
                await self._with_body(inner, scope, receive, send)
            else:
                await inner(scope, receive, send)
        finally:
            self.under_way.count -= 1

    async def _with_body(self, inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        held = self.budget.open(source_of(self._addresses.address(scope)))
        body = IncomingBody(receive, held, self.under_way, self._max_body)
        body.declared = declared_length(scope["headers"]) or 0
        try:
            await inner(scope, body.receive, send)
        finally:
            held.close()


def unavailable(reason: str) -> JsonAnswer:
    """503, come again."""
    return problems.problem(503, reason, headers={"Retry-After": RETRY_AFTER})


class Gate:
    """Answers 503 until it is given its app."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await unavailable("the service is starting")(scope, receive, send)
