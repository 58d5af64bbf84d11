"""The names of query parameters: a route of ours refuses those that it does not know.

A filter that is ignored because of a typo would mean "all", and the next line of a script erases what it got.
"""

from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams

from shared.domain.errors import BadRequest, Fault
from shared.nearest import nearest

MOST_NAMED = 10
_SHOWN = 80
MICROMDM_GETS = frozenset({"/v1/commands/{udid}", "/push/{udid}"})
"""MicroMDM's own GET routes ignore what they do not know, and so do we there."""


def names_of(route: APIRoute) -> frozenset[str] | None:
    """The query parameters that a route knows; None where it ignores others."""
    if route.methods != {"GET"} or route.path in MICROMDM_GETS:
        return None
    found = {each["name"] for each in _declared_by_hand(route) if each["in"] == "query"}
    for field in route.dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.update(kind.model_fields)
        else:
            found.add(field.alias)
    return frozenset(found)


def refuse_unknown(given: QueryParams, known: frozenset[str]) -> None:
    """Raises BadRequest, which names the parameters and the nearest ones that are known."""
    unknown = [name for name in dict.fromkeys(given) if name not in known][:MOST_NAMED]
    if unknown:
        faults = [Fault(name[:_SHOWN], _expected(name, known)) for name in unknown]
        raise BadRequest(f"{faults[0].path}: expected {faults[0].expected}", faults)


def _expected(name: str, known: frozenset[str]) -> str:
    near = nearest(name, sorted(known))
    if near:
        return f"a known query parameter (nearest: {near})"
    return "a known query parameter: " + (", ".join(sorted(known)) or "there are none")


def _declared_by_hand(route: APIRoute) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = (route.openapi_extra or {}).get("parameters", [])
    return parameters
