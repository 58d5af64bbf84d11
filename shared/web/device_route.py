"""Routes that devices call: a router declares itself device-facing by its route class.

    router = APIRouter(route_class=DeviceRoute)

A device gets a status without a body: 400 for what we refuse, 413 for a body over the limit, 503
with Retry-After for what we cannot do now. 401 or 403 can make a device unenroll, so a blocked
device is the one exception.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.domain.errors import BadRequest, Blocked, MdmError, Refused, TooLarge
from shared.telemetry.metrics import Reason
from shared.web.answers import RETRY_AFTER
from shared.web.direct import DirectRoute
from shared.web.problems import count_refused, on_bug, status_of

PLIST = "application/xml; charset=utf-8"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
NoteRefused = Callable[[Request, int, Reason, str], None]
"""Takes a request that is refused, the status and the reason, and what the log may say of it."""


class DeviceAnswer(Protocol):
    """The answer to a device: a property list, or nothing. Its status is never 204, which forbids the
    Content-Length that an empty answer gets."""

    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...


Begin = Callable[[Scope, bytes, Callable[[], bool]], "asyncio.Future[Any] | None"]
"""Takes a request, its small body, and a function that says whether its device is gone. Returns the
DeviceAnswer to be; None for a request that must be served by a task, of which nothing but the state of its
scope may have changed. Raises MdmError."""


def device_status(error: MdmError) -> int:
    """Errors towards devices."""
    if isinstance(error, Blocked):
        return 401
    if isinstance(error, TooLarge):
        return 413
    return 400 if isinstance(error, Refused) else 503


def _answer(request: Request, error: MdmError) -> Response:
    status = device_status(error)
    reason = getattr(error, "reason", None)  # it may say more than the error's kind
    if not isinstance(reason, Reason):
        reason = status_of(error)[1]
    count_refused(request, reason)
    note_refused: NoteRefused | None = getattr(request.app.state, "note_refused", None)
    if note_refused is not None:
        note_refused(request, status, reason, str(error))
    return Response(None, status, {"Retry-After": RETRY_AFTER} if status == 503 else {})


def response_of(answer: DeviceAnswer) -> Response:
    return Response(answer.body, answer.status, media_type=PLIST if answer.body else None)


def _for_device(handle: Handler) -> Handler:
    async def handle_for_device(request: Request) -> Response:
        try:
            return await handle(request)
        except MdmError as exc:
            return _answer(request, exc)
        except HTTPException as exc:
            cause = exc.__cause__
            error = cause if isinstance(cause, MdmError) else BadRequest("unusable request")
            return _answer(request, error)
        except RequestValidationError:
            return _answer(request, BadRequest("unusable parameters"))

    return handle_for_device


class DeviceRoute(APIRoute):
    def get_route_handler(self) -> Handler:
        return _for_device(super().get_route_handler())


def begun_by(begin: Begin) -> Callable[[Handler], Handler]:
    """Marks the endpoint of a `DirectDeviceRoute` as one that `begin` spares, where a request came whole."""

    def mark(endpoint: Handler) -> Handler:
        endpoint.__dict__["begin"] = begin
        return endpoint

    return mark


class DirectDeviceRoute(DirectRoute, DeviceRoute):
    """FastAPI would cost a third of a small request (docs/adr/0017)."""

    def direct(self) -> ASGIApp:
        begin: Begin | None = self.endpoint.__dict__.get("begin")
        return _plain(self.endpoint) if begin is None else DirectApp(self.endpoint, begin)


class DirectApp:
    """A route as plain ASGI, whose `begin` serves small requests that came whole."""

    def __init__(self, endpoint: Handler, begin: Begin) -> None:
        self._app = _plain(endpoint)
        self.begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def failed(self, error: BaseException) -> ASGIApp:
        """The answer to a request that ended with this error."""

        async def fail(_request: Request) -> Response:
            raise error

        return _plain(fail)


def _plain(endpoint: Handler) -> ASGIApp:
    handle = _for_device(endpoint)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handle(Request(scope, receive, send))
        await response(scope, receive, send)

    return ServerErrorMiddleware(answer, handler=on_bug)
