"""/v1/profiles: the operator's own profiles, MicroMDM's paths, bodies and answers.

A profile may hold secrets (a challenge, a password), and the reserved ones decide how devices enroll:
all of it needs the scope `admin`, and reading is audited too.
"""

from fastapi import APIRouter, Request

from services.commands.profiles.schemas import (
    LARGEST_REQUEST,
    DeleteProfilesRequest,
    ListProfilesRequest,
    ProfilePage,
    PutProfileRequest,
    profile_out,
)
from shared.domain.access import Scope
from shared.domain.errors import NotFound
from shared.ports.access import Profiles, StoredProfile
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import Nothing, body, errors, ok
from shared.web.api.requests import Parsing

TAG = {"name": "profiles", "description": "Profiles that replace those we would make."}
LARGEST_PAGE = 16 * 1024**2
"""Bytes of the profiles in one answer, before base64."""
MOST_OF_PAGE = 1000
READ_AT_ONCE = 4


def profile_routes(profiles: Profiles, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["profiles"])
    parsing = Parsing()

    @routes.put(
        "/v1/profiles",
        dependencies=[auth.needs(Scope.ADMIN, audit="profile.store")],
        summary="Store a profile",
        responses=ok(Nothing, "Done.") | errors(400, 413),
        openapi_extra=body(PutProfileRequest),
    )
    async def put_profile(request: Request) -> JsonAnswer:
        """In the place of the one with its Identifier. Stored as
        `com.github.micromdm.micromdm.enroll`, `.ota` or `.ota.phase2`, it is served in place of the
        built-in one, byte for byte (signed, where MDM_PROFILE_CERT is set and it is not yet)."""
        asked = await parsing.read(request, PutProfileRequest, LARGEST_REQUEST)
        given = asked.profile
        describe(request, detail=given.identifier)
        await profiles.put(StoredProfile(given.identifier, given.mobileconfig))
        return JsonAnswer({})

    @routes.post(
        "/v1/profiles",
        dependencies=[auth.needs(Scope.ADMIN, audit="profile.read")],
        summary="List profiles",
        responses=ok(ProfilePage, "By identifier; `next_cursor` is there where more follow.")
        | errors(
            400, 404, 413, said={404: ("No such profile.", "id: no profile org.example is stored")}
        ),
        openapi_extra=body(ListProfilesRequest),
    )
    async def list_profiles(request: Request) -> JsonAnswer:
        """The one of this id, or all by identifier. An answer ends before 16 MiB of profiles, or after
        1,000; then it has `next_cursor`, which as `cursor` leads to the next ones."""
        asked = await parsing.read(request, ListProfilesRequest)
        describe(request, detail=asked.id or "all")
        if asked.id is None:
            found, following = await read_page(profiles, asked.cursor)
            more = {} if following is None else {"next_cursor": following}
            return JsonAnswer({"profiles": list(map(profile_out, found)), **more})
        one = await profiles.get(asked.id)
        if one is None:
            raise NotFound(f"id: no profile {asked.id[:100]} is stored")
        return JsonAnswer({"profiles": [profile_out(one)]})

    @routes.delete(
        "/v1/profiles",
        dependencies=[auth.needs(Scope.ADMIN, audit="profile.remove")],
        summary="Remove profiles",
        responses=ok(Nothing, "Done.") | errors(400, 413),
        openapi_extra=body(DeleteProfilesRequest),
    )
    async def delete_profiles(request: Request) -> JsonAnswer:
        """Those that are not there are no error; the built-in ones are served again."""
        asked = await parsing.read(request, DeleteProfilesRequest)
        describe(request, detail=" ".join(asked.ids))
        await profiles.delete(asked.ids)
        return JsonAnswer({})

    return routes


async def read_page(
    profiles: Profiles, after: str | None
) -> tuple[list[StoredProfile], str | None]:
    """The next profiles by identifier, and the last of them if something follows. They are read a few at
    a time, since each may be as large as a document."""
    page: list[StoredProfile] = []
    left = LARGEST_PAGE
    while found := await profiles.page(page[-1].identifier if page else after, READ_AT_ONCE):
        for profile in found:
            left -= len(profile.mobileconfig)
            if page and (left < 0 or len(page) == MOST_OF_PAGE):
                return page, page[-1].identifier
            page.append(profile)
    return page, None
