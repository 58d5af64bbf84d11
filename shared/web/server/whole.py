"""Answer a small request of a device that came whole, in one piece with its headers, without a task.

Promise: until the process ends, a client sees no difference from the way through ASGI, and errors are
counted, noted and logged as there. Whatever is unusual takes that way: a body that is still under way, or
large; too many requests or bytes at once; a refusal; an answer that its client does not read. A process that
ends cancels tasks after its graceful timeout. These requests have none: they are answered while the services
drain.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from shared.domain.errors import Unavailable
from shared.web.client_address import ClientAddresses, source_of
from shared.web.device_route import PLIST, DeviceAnswer, DirectApp, response_of
from shared.web.server.bodies import BodyBudget, HeldBody, UnderWay
from shared.web.server.protocol import StartTask, TakeWhole

LARGEST = 64 * 1024
"""Bytes of a small body."""

_PLIST = b"content-type: " + PLIST.encode() + b"\r\n"


class WholeRequests:
    def __init__(
        self,
        budget: BodyBudget,
        under_way: UnderWay,
        addresses: ClientAddresses,
        app: object,
    ) -> None:
        self._budget = budget
        self._under_way = under_way
        self._addresses = addresses
        self._app = app

    def of(self, routes: Mapping[tuple[str, str], ASGIApp]) -> dict[tuple[str, bytes], TakeWhole]:
        """What takes the requests of these routes, by method and raw path."""
        return {
            (method, path.encode()): partial(self._take, route)
            for (method, path), route in routes.items()
            if isinstance(route, DirectApp)
        }

    def _take(self, route: DirectApp, cycle: RequestResponseCycle, start: StartTask) -> bool:
        """Take a request whose body is there, or leave it as it is."""
        scope: Any = cycle.scope
        size = len(cycle.body)
        is_full = self._under_way.count >= self._under_way.most
        if is_full or size > LARGEST or not self._budget.has_room(size):
            return False
        scope["app"] = self._app
        try:
            answer = route.begin(scope, bytes(cycle.body), lambda: cycle.disconnected)
        except Exception as exc:  # noqa: BLE001 - the route answers it, as it answers all that fails
            cycle.body = bytearray()
            start(cycle, route.failed(exc))
            return True
        if answer is None:
            return False
        cycle.body = bytearray()  # the connection, which may rest for long, keeps the cycle
        held = self._budget.open(source_of(self._addresses.address(scope)))
        held.add(size)
        held.finish()
        self._under_way.count += 1
        answer.add_done_callback(partial(self._answered, cycle, held, route, start))
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
        _write(cycle, done.result())


def _write(cycle: RequestResponseCycle, answer: DeviceAnswer) -> None:
    """Send the whole answer in one piece, and let the connection go on."""
    lines = [STATUS_LINE[answer.status]]
    for name, value in cycle.default_headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"content-length: %d\r\n" % len(answer.body))
    if answer.body:
        lines.append(_PLIST)
    lines += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", answer.body)
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join(lines))
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
