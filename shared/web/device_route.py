"""Routes that devices call: a router declares itself device-facing by its route class.

    router = APIRouter(route_class=DeviceRoute)

A device gets a status without a body: 400 for what we refuse, 413 for a body over the limit, 503
with Retry-After for what we cannot do now. 401 or 403 can make a device unenroll, so a blocked
device is the one exception.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from shared.domain.errors import BadRequest, Blocked, MdmError, Refused, TooLarge
from shared.telemetry.metrics import Reason
from shared.web.answers import RETRY_AFTER
from shared.web.problems import count_refused, status_of

log = structlog.get_logger()

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def device_status(error: MdmError) -> int:
    """What a device may hear of an error."""
    if isinstance(error, Blocked):
        return 401
    if isinstance(error, TooLarge):
        return 413
    return 400 if isinstance(error, Refused) else 503


def _reason(error: MdmError) -> Reason:
    """The metric's label: a service that refuses a device may say more than the error's kind."""
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, Reason) else status_of(error)[1]


def _answer(request: Request, error: MdmError) -> Response:
    status = device_status(error)
    count_refused(request, _reason(error))
    log.info("device_refused", path=request.url.path, status=status, reason=str(error))
    return Response(
        status_code=status, headers={"Retry-After": RETRY_AFTER} if status == 503 else {}
    )


class DeviceRoute(APIRoute):
    def get_route_handler(self) -> Handler:
        handle: Handler = super().get_route_handler()

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
