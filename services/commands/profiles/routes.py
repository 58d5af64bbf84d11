"""/v1/profiles: the operator's own profiles, MicroMDM's paths, bodies and answers.

A profile may hold secrets (a challenge, a password), and the reserved ones decide how devices enroll:
all of it needs the scope `admin`, and reading is audited too.
"""

from fastapi import APIRouter, Request

from services.commands.openapi import Responses, Schema, errors
from services.commands.profiles.service import (
    LARGEST_REQUEST,
    read_page,
    read_profile,
    read_unwanted,
    read_wanted,
    shown,
)
from shared.domain.access import Scope
from shared.domain.errors import NotFound
from shared.ports.access import Profiles, Reserved
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import Parsing
from shared.web.body import JSON_LIMIT, read_body

TAG: Schema = {"name": "profiles", "description": "Profiles that replace those we would make."}

_EXAMPLE = {
    "Identifier": str(Reserved.ENROLL),
    "Mobileconfig": "PD94bWwgdmVyc2lvbj0iMS4wIj8+PHBsaXN0PjxkaWN0Lz48L3BsaXN0Pg==",
}
_PROFILE: Schema = {
    "type": "object",
    "properties": {
        "Identifier": {"type": "string"},
        "Mobileconfig": {"type": "string", "format": "byte"},
    },
}


def _json(schema: Schema, example: object) -> Schema:
    return {"content": {"application/json": {"schema": schema, "example": example}}}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


_DONE: Schema = {"description": "Done."} | _json(_object({}), {})
_LISTED: Schema = {
    "description": "By identifier; `next_cursor` is there where more follow."
} | _json(
    _object({"profiles": {"type": "array", "items": _PROFILE}, "next_cursor": {"type": "string"}}),
    {"profiles": [_EXAMPLE]},
)
_PUT_BODY = {"requestBody": _json(_object({"profile": _PROFILE}), {"profile": _EXAMPLE})}
_LIST_BODY = {
    "requestBody": _json(
        _object({"id": {"type": "string"}, "cursor": {"type": "string"}}), {"id": Reserved.ENROLL}
    )
}
_DELETE_BODY = {
    "requestBody": _json(
        _object({"ids": {"type": "array", "items": {"type": "string"}}}), {"ids": [Reserved.ENROLL]}
    )
}
_PUT: Responses = {200: _DONE, **errors(400, 401, 403, 413, 503)}
_LIST: Responses = {200: _LISTED, **errors(400, 401, 403, 404, 413, 503)}


def profile_routes(profiles: Profiles, auth: ApiAuth) -> APIRouter:
    """PUT, POST and DELETE of /v1/profiles."""
    routes = auth.router(tags=["profiles"])
    parsing = Parsing()

    @routes.put(
        "/v1/profiles",
        dependencies=[auth.needs(Scope.ADMIN, audit="profile.store")],
        summary="Store a profile",
        responses=_PUT,
        openapi_extra=_PUT_BODY,
    )
    async def put_profile(request: Request) -> JsonAnswer:
        """In the place of the one with its Identifier. Stored as
        `com.github.micromdm.micromdm.enroll`, `.ota` or `.ota.phase2`, it is served in place of the
        built-in one, byte for byte (signed, where MDM_PROFILE_CERT is set and it is not yet)."""
        profile = await parsing.of(read_profile, await read_body(request, LARGEST_REQUEST))
        describe(request, detail=profile.identifier)
        await profiles.put(profile)
        return JsonAnswer({})

    @routes.post(
        "/v1/profiles",
        dependencies=[auth.needs(Scope.ADMIN, audit="profile.read")],
        summary="List profiles",
        responses=_LIST,
        openapi_extra=_LIST_BODY,
    )
    async def list_profiles(request: Request) -> JsonAnswer:
        """The one of this id, or all by identifier. An answer ends before 16 MiB of profiles, or after
        1,000; then it has `next_cursor`, which as `cursor` leads to the next ones."""
        wanted, after = await parsing.of(read_wanted, await read_body(request, JSON_LIMIT))
        describe(request, detail=wanted or "all")
        if wanted is None:
            found, following = await read_page(profiles, after)
            more = {} if following is None else {"next_cursor": following}
            return JsonAnswer({"profiles": [shown(profile) for profile in found], **more})
        one = await profiles.get(wanted)
        if one is None:
            raise NotFound(f"id: no profile {wanted[:100]} is stored")
        return JsonAnswer({"profiles": [shown(one)]})

    @routes.delete(
        "/v1/profiles",
        dependencies=[auth.needs(Scope.ADMIN, audit="profile.remove")],
        summary="Remove profiles",
        responses=_PUT,
        openapi_extra=_DELETE_BODY,
    )
    async def delete_profiles(request: Request) -> JsonAnswer:
        """Those that are not there are no error; the built-in ones are served again."""
        unwanted = await parsing.of(read_unwanted, await read_body(request, JSON_LIMIT))
        describe(request, detail=" ".join(unwanted))
        await profiles.delete(unwanted)
        return JsonAnswer({})

    return routes
