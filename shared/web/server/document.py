"""The OpenAPI document: one of all services, made by deploy/local/openapi_document.py, served by each.

Promise: the document says only what is answered, and each answer and body has an example.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI

from shared.web import version
from shared.web.answers import JsonAnswer
from shared.web.api.auth import with_tokens
from shared.web.api.openapi import COMPONENTS, Schema, schema_of
from shared.web.problems import Problem
from shared.web.server.service import Service

_NO_EXAMPLE = object()


def document_of(services: Sequence[Service], webhooks: APIRouter) -> Schema:
    """The document of the routes of services, and of the requests that they make."""
    app = FastAPI(
        title="MacroMDM",
        version=version.VERSION,
        description="Apple device management: MicroMDM's API and events, nothing lost.",
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "The server that serves this document."}],
        default_response_class=JsonAnswer,
        generate_unique_id_function=lambda route: route.name,
        openapi_tags=[
            *(dict(tag) for service in services for tag in service.openapi_tags),
            version.TAG,
            {"name": "webhook", "description": "Events, as a receiver of yours gets them."},
        ],
    )
    for router in (*(service.router for service in services), version.router):
        app.include_router(router)
    app.webhooks.include_router(webhooks)
    return with_tokens(_finished(app.openapi()))


def _finished(document: Schema) -> Schema:
    """FastAPI's document with what it does not know of ours, and without what it announces and we never
    answer: its own answer to unusable parameters (ours is 400)."""
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    components.update(schema_of(Problem))
    items = (*document["paths"].values(), *document.get("webhooks", {}).values())
    operations = [each for item in items for each in item.values()]
    for operation in operations:
        operation["responses"].pop("422", None)
        for content in _contents(operation.get("requestBody", {})):
            components.update(content.get("schema", {}).pop("x-components", {}))
    for operation in operations:
        for described in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in _contents(described):
                _add_example(content, components)
    return document


def _contents(described: Schema) -> list[Schema]:
    return list(described.get("content", {}).values())


def _add_example(content: Schema, components: Schema) -> None:
    schema = content.get("schema", {})
    if "$ref" in schema and not schema["$ref"].endswith("/Problem"):
        made = _example_of(schema, components)
        content["example"] = _merged(made, content.get("example", {}))


def _example_of(schema: Schema, components: Schema) -> Any:
    """The first of its examples; else one made of those of its parts."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _example_of(components[schema["$ref"].removeprefix(COMPONENTS)], components)
    if "anyOf" in schema:
        return _example_of(schema["anyOf"][0], components)
    if "items" in schema:
        return [_example_of(schema["items"], components)]
    if "properties" not in schema:
        return _NO_EXAMPLE
    required = schema.get("required", ())
    made = {
        name: _example_of(each, components)
        for name, each in schema["properties"].items()
        if name in required or "examples" in each
    }
    return {name: each for name, each in made.items() if each is not _NO_EXAMPLE}


def _merged(made: Any, given: Mapping[str, Any]) -> Any:
    parts = {k: _merged(made[k], v) if isinstance(v, dict) else v for k, v in given.items()}
    return {**made, **parts}
