"""OpenAPI of API routes: the parts that all routes share, and examples made of those of the fields.

Promise: an answer is described once, by the type that its view returns. FastAPI writes the schema from it,
and the example comes from the `examples` of its fields (`shared.web.server.document`).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from shared.web.problems import Problem, problem_of

Schema = dict[str, Any]
Responses = dict[int | str, Schema]
Said = Mapping[int, str | tuple[str, str]]

UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"
UUID = "0198f1d2-7c3a-7d11-9a55-0c7f1b1d9a55"
TIME = "2026-01-02T03:04:05Z"
COMPONENTS = "#/components/schemas/"


def like(*examples: object) -> Any:
    """For `Annotated`: an example of a value."""
    return Field(examples=list(examples))


def about(description: str, *examples: object) -> Any:
    """For `Annotated`: what a value says, with an example."""
    if not examples:  # those of the type stay
        return Field(description=description)
    return Field(description=description, examples=list(examples))


def one_of(values: Iterable[str]) -> Any:
    """For `Annotated[str, ...]`: the values of a closed set."""
    return Field(json_schema_extra={"enum": list(values)})


def open_set(values: Iterable[str]) -> Any:
    """For `Annotated[str, ...]`: the values of a set that later versions may add to. Generated clients take
    others too."""
    return Field(json_schema_extra={"anyOf": [{"enum": list(values)}, {"minLength": 1}]})


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=[TIME])]
Base64 = Annotated[str, Field(json_schema_extra={"format": "byte"})]
NoText = Annotated[str | None, like(None)]
NoTime = Annotated[Time | None, like(None)]


class Nothing(TypedDict):
    """An answer without content."""


_ERRORS: Mapping[int, tuple[str, str]] = {
    400: (
        "What was sent cannot be used; `faults` lists all that is wrong.",
        "request_type: expected the name of one of Apple's commands",
    ),
    401: ("The API key or token is missing or wrong.", "the API key or token is wrong"),
    403: ("The token lacks the scope that the message names.", "this needs the scope admin"),
    404: ("No such device.", f"udid: no device or user {UDID} is enrolled"),
    409: (
        "The id names several enrollments, which the answer lists, or the CommandUUID another command. A "
        "UDID never does; name the device or user by its full id.",
        f"command_uuid: {UUID} names another command of this device",
    ),
    413: ("The body is too large.", "the body is over 4194304 bytes"),
    429: (
        "Too much, or too many failed authentications; come again after Retry-After seconds.",
        "too many failed authentications from this address",
    ),
    502: ("APNs refused.", "APNs did not take the push: 410 Unregistered"),
    503: ("Not now; come again after Retry-After seconds.", "MongoDB: no answer in time"),
}
_OF_EVERY_ROUTE = (401, 403, 429, 503)

WAIT: Schema = {
    "name": "wait",
    "in": "query",
    "description": "Seconds (at most MDM_MAX_WAIT) for which to wait until the command is final. "
    "The answer to a POST has `command` then; when the time is over before, it has `timed_out`.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key again is the same command for the same device, for as long as a "
    "repeated `command_uuid` is, which the key becomes. A `command_uuid` in the body goes before it.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def ok(model: Any, description: str, status: int = 200, **example: Any) -> Responses:
    """A success; `example` replaces parts of the example that the fields make."""
    content = {"application/json": {"example": example}} if example else {}
    # FastAPI makes a validator of it for each route, twice, and only the document needs it.
    with_config(ConfigDict(defer_build=True))(model)
    return {status: {"model": model, "description": description, "content": content}}


def errors(*statuses: int, said: Said | None = None) -> Responses:
    """The errors of a route, beside those that every route has. `said` has the text of a route for some of
    them, or a description and a text."""
    found: Responses = {}
    for status in sorted({*statuses, *_OF_EVERY_ROUTE}):
        description, detail = _ERRORS[status]
        own = (said or {}).get(status, detail)
        description, detail = (description, own) if isinstance(own, str) else own
        schema = {"$ref": COMPONENTS + Problem.__name__}
        content = {"schema": schema, "example": problem_of(status, detail)}
        found[status] = {"description": description, "content": {"application/json": content}}
    return found


def body(model: type[BaseModel], description: str | None = None) -> Schema:
    """The body of a request, for `openapi_extra`; required where one of its keys is."""
    name, schema = model.__name__, schema_of(model)
    content = {"schema": {"$ref": COMPONENTS + name, "x-components": schema}}
    request: Schema = {"content": {"application/json": content}}
    if schema[name].get("required"):
        request["required"] = True
    return {"requestBody": request | ({"description": description} if description else {})}


def schema_of(model: Any) -> Schema:
    """The schema of a model and of those in it, by name."""
    schema = TypeAdapter(model).json_schema(ref_template=COMPONENTS + "{model}")
    return {model.__name__: schema, **schema.pop("$defs", {})}
