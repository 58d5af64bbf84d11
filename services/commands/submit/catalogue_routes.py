"""What a client may ask of its devices: the catalogue of commands, as programs read it.

Promise: the same facts as OpenAPI and docs/commands.md show, because they come from the same place.
"""

from fastapi import APIRouter

from services.commands import openapi
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.catalogue.description import description, summary
from shared.domain.access import Scope
from shared.domain.errors import NotFound
from shared.web.answers import JsonAnswer
from shared.web.api.auth import ApiAuth

_SYSTEMS = {"iOS": {"available": True, "introduced": "4.0", "user_channel": False}}
_LIST_EXAMPLE: dict[str, object] = {
    "release": "27.0 (iOS, iPadOS, macOS, tvOS, visionOS, watchOS), as of November 2026",
    "request_types": [
        {"request_type": "RemoveProfile", "required": ["identifier"], "systems": _SYSTEMS}
    ],
}
_ONE_EXAMPLE: dict[str, object] = {
    "release": "27.0 (iOS, iPadOS, macOS, tvOS, visionOS, watchOS), as of November 2026",
    "request_type": "RemoveProfile",
    "systems": _SYSTEMS,
    "keys": [
        {"name": "identifier", "apple_name": "Identifier", "required": True, "type": "string"}
    ],
    "example": {
        "udid": openapi.UDID,
        "request_type": "RemoveProfile",
        "identifier": "com.example.app",
    },
    "schema": {"type": "object"},
}


def _answer(text: str, shown: dict[str, object], properties: openapi.Schema) -> openapi.Schema:
    schema = {"type": "object", "properties": properties}
    content = {"application/json": {"schema": schema, "example": shown}}
    return {"description": text, "content": content}


_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_OBJECTS = {"type": "array", "items": _OBJECT}

LIST_REQUEST_TYPES: openapi.Responses = {
    200: _answer(
        "All commands, by name.",
        _LIST_EXAMPLE,
        {"release": _TEXT, "request_types": _OBJECTS},
    ),
    **openapi.errors(400, 401, 403, 503),
}
GET_REQUEST_TYPE: openapi.Responses = {
    200: _answer(
        "Its keys with all that is inside them, an example, and its JSON Schema.",
        _ONE_EXAMPLE,
        {
            "release": _TEXT,
            "request_type": _TEXT,
            "systems": _OBJECT,
            "keys": _OBJECTS,
            "example": _OBJECT,
            "schema": _OBJECT,
        },
    ),
    **openapi.errors(400, 401, 403, 404, 503),
}


def add_request_types(routes: APIRouter, catalogue: CommandCatalogue, auth: ApiAuth) -> None:
    """Add the two routes of the catalogue."""
    summaries = [summary(form) for form in catalogue.forms.values()]
    descriptions = {name: description(form) for name, form in catalogue.forms.items()}

    @routes.get(
        "/v1/request_types",
        dependencies=[auth.needs(Scope.READ)],
        tags=["commands"],
        summary="List the commands that can be queued as JSON",
        responses=LIST_REQUEST_TYPES,
    )
    async def list_request_types() -> JsonAnswer:
        """What Apple published in one release of its schema; `systems` says where each works. A
        command that is newer can be queued as a property list."""
        return JsonAnswer({"release": catalogue.release, "request_types": summaries})

    @routes.get(
        "/v1/request_types/{name}",
        dependencies=[auth.needs(Scope.READ)],
        tags=["commands"],
        summary="One command: its keys, an example, its schema",
        responses=GET_REQUEST_TYPE,
    )
    async def get_request_type(name: str) -> JsonAnswer:
        """`name` of a key is the spelling of answers, `apple_name` Apple's; both are understood."""
        if name not in descriptions:
            nearest = catalogue.nearest(name)
            hint = f" (nearest: {nearest})" if nearest else ""
            raise NotFound(f"request_type: no command has this name{hint}")
        return JsonAnswer({"release": catalogue.release, **descriptions[name]})
