"""Routes that devices call: a router declares itself device-facing by its route class.

    router = APIRouter(route_class=DeviceRoute)

A device gets a status without a body: 400 for what we refuse, 413 for a body over the limit, 503
with Retry-After for what we cannot do now. 401 or 403 can make a device unenroll, so a blocked
device is the one exception.
"""

from collections.abc import Callable
from typing import Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from shared.domain.errors import BadRequest, Blocked, MdmError, Refused, TooLarge
from shared.telemetry.metrics import Reason
from shared.web.answers import RETRY_AFTER
from shared.web.direct import Begin, DirectApp, DirectRoute, Handler
from shared.web.problems import count_refused, status_of

PLIST = "application/xml; charset=utf-8"

NoteRefused = Callable[[Request, int, Reason, str], None]
"""Takes a request that is refused, the status and the reason, and what the log may say of it."""


class DeviceAnswer(Protocol):
    """The answer to a device: a property list, or nothing. Its status is never 204, which forbids the
    Content-Length that an empty answer gets."""

    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...


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

    def direct(self) -> DirectApp:
        begin: Begin | None = self.endpoint.__dict__.get("begin")
        return DirectApp(self.endpoint, _for_device, begin)
