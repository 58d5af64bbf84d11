"""The one map from errors to HTTP answers.

API clients get `application/json` with `error`, which MicroMDM's command-line client shows, and the
members of RFC 9457 beside it; the framework's own errors (404, 405, unusable parameters) too.
Devices get a status and nothing else: see `shared.web.device_route`.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any, NotRequired

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from typing_extensions import TypedDict

from shared.domain.errors import (
    BadRequest,
    Blocked,
    Conflict,
    Fault,
    Forbidden,
    MdmError,
    Misconfigured,
    NotFound,
    Overtaken,
    Refused,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from shared.settings.expected import refusal
from shared.telemetry.metrics import Metrics, Reason
from shared.web.answers import RETRY_AFTER, JsonAnswer

log = structlog.get_logger()

CHALLENGE = 'Basic realm="micromdm"'

# The first class that matches counts, so narrow ones come before wide ones.
_STATUS: tuple[tuple[type[MdmError], int, Reason], ...] = (
    (TooLarge, 413, Reason.TOO_LARGE),
    (Unauthenticated, 401, Reason.UNAUTHENTICATED),
    (Forbidden, 403, Reason.FORBIDDEN),
    (NotFound, 404, Reason.NOT_FOUND),
    (Conflict, 409, Reason.CONFLICT),
    (BadRequest, 400, Reason.BAD_REQUEST),
    (Refused, 400, Reason.BAD_REQUEST),
    (Blocked, 401, Reason.BLOCKED),
    (TooManyRequests, 429, Reason.TOO_MANY_REQUESTS),
    (Overtaken, 503, Reason.OVERTAKEN),
    (Unavailable, 503, Reason.UNAVAILABLE),
    (Misconfigured, 503, Reason.UNAVAILABLE),
    (UpstreamFailed, 502, Reason.UNAVAILABLE),
)


_TYPES = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    409: "conflict",
    413: "too-large",
    429: "too-many-requests",
    500: "internal-error",
    502: "upstream-failed",
    503: "unavailable",
}


def status_of(error: MdmError) -> tuple[int, Reason]:
    """The status and the metric's label of an error."""
    for kind, status, reason in _STATUS:
        if isinstance(error, kind):
            return status, reason
    return 500, Reason.BAD_REQUEST


class FaultOut(TypedDict):
    path: str
    expected: str


class Problem(TypedDict):
    """`error` for people, the members of RFC 9457 for programs."""

    error: str
    type: str
    title: str
    status: int
    detail: str
    faults: NotRequired[list[FaultOut]]


def problem_of(status: int, detail: str, faults: Sequence[Fault] = ()) -> Problem:
    """The content of an error answer."""
    content: Problem = {
        # MicroMDM's clients know this word; `detail` says more.
        "error": "Unauthorized" if status == 401 else detail,
        "type": f"urn:macromdm:problem:{_TYPES.get(status, status)}",
        "title": HTTPStatus(status).phrase,  # may change with Python; the type does not
        "status": status,
        "detail": detail,
    }
    if faults:
        content["faults"] = [{"path": each.path, "expected": each.expected} for each in faults]
    return content


def problem(
    status: int, detail: str, *, faults: Sequence[Fault] = (), headers: dict[str, str] | None = None
) -> JsonAnswer:
    """An error answer for an API client."""
    return JsonAnswer(problem_of(status, detail, faults), status, headers)


def count_refused(request: Request, reason: Reason) -> None:
    """Count a refused request; an app without metrics (a test's) counts nothing."""
    metrics: Metrics | None = getattr(request.app.state, "metrics", None)
    if metrics is not None:
        metrics.requests_refused.labels(reason).inc()


def answer_error(request: Request, error: MdmError) -> JsonAnswer:
    """The answer of an API route that raised one of our errors."""
    status, reason = status_of(error)
    count_refused(request, reason)
    detail = str(error) or HTTPStatus(status).phrase
    if status >= 500:
        log.warning("request_failed", path=request.url.path, status=status, error=detail)
    faults = error.faults if isinstance(error, BadRequest) else ()
    headers = {401: {"WWW-Authenticate": CHALLENGE}, 503: {"Retry-After": RETRY_AFTER}}.get(status)
    if isinstance(error, TooManyRequests):
        headers = {"Retry-After": str(max(1, ceil(error.retry_after.total_seconds())))}
    return problem(status, detail, faults=faults, headers=headers)


async def _on_error(request: Request, exc: MdmError) -> Response:
    return answer_error(request, exc)


async def _on_http_exception(request: Request, exc: HTTPException) -> Response:
    if isinstance(exc.__cause__, MdmError):  # FastAPI wraps what reading the body raised
        return answer_error(request, exc.__cause__)
    headers = dict(exc.headers or {})
    if exc.status_code == 404:
        return problem(404, no_route(request), headers=headers)
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(sorted(methods_of(request)))
    return problem(exc.status_code, str(exc.detail), headers=headers)


async def _on_unusable_parameters(request: Request, exc: RequestValidationError) -> Response:
    # The first step says where a parameter is, such as `query`.
    errors = ({**error, "loc": error["loc"][1:]} for error in exc.errors())
    return answer_error(request, refusal(errors))


async def on_bug(request: Request, exc: Exception) -> Response:
    """Answer a fault of ours. The framework logs the exception; a client learns nothing of our insides."""
    return problem(500, "internal error")


_HANDLERS: tuple[tuple[type[Exception], Callable[[Request, Any], Any]], ...] = (
    (MdmError, _on_error),
    (HTTPException, _on_http_exception),
    (RequestValidationError, _on_unusable_parameters),
    (Exception, on_bug),
)


def install(app: FastAPI) -> None:
    """Let an app answer errors as this module says."""
    for kind, handler in _HANDLERS:
        app.add_exception_handler(kind, handler)


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
