"""Answer a small request that came whole, in one piece with its headers, without the layers of ASGI: one of a
device by `begin` of its route, without a task; any other one by its route's `respond`, in a task.

Promise: until the process ends, a client sees no difference from the way through ASGI, and errors are
counted, noted and logged as there. Whatever is unusual takes that way: a body that is still under way, or
large; too many requests or bytes at once; an answer with headers of its own, or one that its client does not
read. A process that ends cancels tasks after its graceful timeout. Requests without a task are answered while
the services drain.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeGuard, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from shared.domain.errors import Unavailable
from shared.web.answers import CONTENT_TYPE, JsonAnswer
from shared.web.client_address import ClientAddresses, source_of
from shared.web.device_route import PLIST, DeviceAnswer, response_of
from shared.web.direct import DirectApp
from shared.web.server.bodies import BodyBudget, HeldBody, UnderWay
from shared.web.server.protocol import StartTask, TakeWhole

LARGEST = 64 * 1024
"""Bytes of a small body."""

_PLIST = b"content-type: " + PLIST.encode() + b"\r\n"
_JSON = b"content-type: " + CONTENT_TYPE.encode() + b"\r\n"
_PLAIN_HEADERS = 2
"""Content-Length and Content-Type."""


class WholeRequests:
    def __init__(
        self,
        budget: BodyBudget,
        under_way: UnderWay,
        addresses: ClientAddresses,
        app: object,
        max_body: int,
    ) -> None:
        self._budget = budget
        self._under_way = under_way
        self._addresses = addresses
        self._app = app
        self._largest = min(max_body, LARGEST)

    def of(self, routes: Mapping[tuple[str, str], DirectApp]) -> dict[tuple[str, bytes], TakeWhole]:
        """What takes the requests of these routes, by method and raw path."""
        return {
            (method, path.encode()): partial(self._begin if route.begin else self._serve, route)
            for (method, path), route in routes.items()
        }

    def _source(self, cycle: RequestResponseCycle) -> str | None:
        """The address that sent a request which can be taken; None for one to be left as it is."""
        size = len(cycle.body)
        if self._under_way.count >= self._under_way.most or size > self._largest:
            return None
        scope: Any = cycle.scope
        scope["app"] = self._app
        source = source_of(self._addresses.address(scope))
        return source if self._budget.has_room(size) else None

    def _begin(self, route: DirectApp, cycle: RequestResponseCycle, start: StartTask) -> bool:
        """Take a request of a device, or leave it as it is."""
        source = self._source(cycle)
        if source is None or route.begin is None:
            return False
        body = bytes(cycle.body)
        try:
            answer = route.begin(cast("Any", cycle.scope), body, lambda: cycle.disconnected)
        except Exception as exc:  # noqa: BLE001 - the route answers it, as it answers all that fails
            cycle.body = bytearray()
            start(cycle, route.failed(exc))
            return True
        if answer is None:
            return False
        cycle.body = bytearray()  # the connection, which may rest for long, keeps the cycle
        held = self._budget.hold(source, len(body))
        self._under_way.count += 1
        answer.add_done_callback(partial(self._answered, cycle, held, route, start))
        return True

    def _serve(self, route: DirectApp, cycle: RequestResponseCycle, start: StartTask) -> bool:
        """Take any other request, or leave it as it is."""
        source = self._source(cycle)
        if source is None:
            return False
        held = self._budget.hold(source, len(cycle.body))
        self._under_way.count += 1

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            response: ASGIApp
            try:
                try:
                    response = await route.respond(Request(scope, receive, send))
                except Exception as exc:  # noqa: BLE001 - the route answers it, and raises it again
                    response = route.failed(exc)
                if cycle.flow.write_paused or not _is_plain(response):
                    await response(scope, receive, send)
                elif not cycle.disconnected:
                    _write(cycle, response.status_code, bytes(response.body), _JSON)
            finally:
                cycle.body = bytearray()  # of a request that was refused before its body was read
                held.close()
                self._under_way.count -= 1

        start(cycle, serve)
        return True

    def _answered(
        self,
        cycle: RequestResponseCycle,
        held: HeldBody,
        route: DirectApp,
        start: StartTask,
        done: asyncio.Future[DeviceAnswer],
    ) -> None:
        try:
            _answer(cycle, route, start, done)
        finally:
            held.close()
            self._under_way.count -= 1


def _answer(
    cycle: RequestResponseCycle,
    route: DirectApp,
    start: StartTask,
    done: asyncio.Future[DeviceAnswer],
) -> None:
    error = Unavailable("the process ends") if done.cancelled() else done.exception()
    if error is not None:
        start(cycle, route.failed(error))  # noted and logged also where the device is gone
    elif cycle.disconnected:
        return
    elif cycle.flow.write_paused:
        start(cycle, response_of(done.result()))
    else:
        answer = done.result()
        _write(cycle, answer.status, answer.body, _PLIST if answer.body else b"")


def _is_plain(response: ASGIApp) -> TypeGuard[JsonAnswer]:
    """True for a small answer in JSON without headers of its own."""
    return (
        type(response) is JsonAnswer
        and len(response.body) <= LARGEST
        and len(response.raw_headers) == _PLAIN_HEADERS
        and response.background is None
    )


def _write(cycle: RequestResponseCycle, status: int, body: bytes, content_type: bytes) -> None:
    """Send the whole answer in one piece, and let the connection go on."""
    lines = [STATUS_LINE[status]]
    for name, value in cycle.default_headers:
        lines += (name, b": ", value, b"\r\n")
    lines += (b"content-length: %d\r\n" % len(body), content_type)
    lines += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join(lines))
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
