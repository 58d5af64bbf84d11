"""Profiles in the API: bodies as MicroMDM's clients write them, and answers as they expect them."""

import base64
from typing import Annotated, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import TypedDict

from shared.apple.plist import read as plist
from shared.domain.errors import BadRequest, TooLarge
from shared.ports.access import Reserved, StoredProfile
from shared.security.signature.cms import content_of
from shared.web.api.openapi import Base64, like
from shared.web.api.requests import Expected, MicroMdmBody, unlike

LARGEST = 8 * 1024**2
"""Bytes of a profile, so that it fits into one document with room to spare."""
LARGEST_REQUEST = 12 * 1024**2
"""Bytes of a request that holds a profile in base64."""
MOST_IDENTIFIERS = 1000
LONGEST_IDENTIFIER = 256
_PROFILE = "PD94bWwgdmVyc2lvbj0iMS4wIj8+PHBsaXN0PjxkaWN0Lz48L3BsaXN0Pg=="


def _profile(value: object) -> bytes:
    """A property list, or a CMS that holds one; the device judges who signed it."""
    try:
        if not isinstance(value, str):
            raise ValueError
        decoded = base64.b64decode(value, validate=True)
    except ValueError:  # binascii.Error is one
        raise unlike("a profile in base64") from None
    if len(decoded) > LARGEST:
        raise TooLarge(f"profile.Mobileconfig: the profile is over {LARGEST} bytes")
    is_signed = decoded[:1] == b"\x30"
    try:
        plist.parse(content_of(decoded) if is_signed else decoded)
    except BadRequest:
        raise unlike("a property list, or a signed one") from None
    return decoded


def _printable(identifier: str) -> str:
    if not identifier.isprintable():
        raise unlike("a string without control characters")
    return identifier


Identifier = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_IDENTIFIER),
    Expected(f"a string of 1 to {LONGEST_IDENTIFIER} characters"),
    AfterValidator(_printable),
]


OptionalIdentifier = Annotated[
    Identifier | None, BeforeValidator(lambda given: None if given == "" else given)
]


class GivenProfile(MicroMdmBody):
    identifier: Annotated[Identifier, Field(alias="Identifier"), like(Reserved.ENROLL)]
    mobileconfig: Annotated[
        bytes,
        BeforeValidator(_profile),
        Field(alias="Mobileconfig", json_schema_extra={"format": "byte"}),
        like(_PROFILE),
    ]


class PutProfileRequest(MicroMdmBody):
    profile: Annotated[GivenProfile, Expected("an object with Identifier and Mobileconfig")]


class ListProfilesRequest(MicroMdmBody):
    """An empty body and an empty id ask for all."""

    id: Annotated[OptionalIdentifier, like(Reserved.ENROLL)] = None
    cursor: OptionalIdentifier = None


class DeleteProfilesRequest(MicroMdmBody):
    ids: Annotated[
        list[Identifier],
        Field(max_length=MOST_IDENTIFIERS),
        Expected(f"a list of up to {MOST_IDENTIFIERS} strings"),
        like([Reserved.ENROLL]),
    ] = Field(default_factory=list)


class ProfileOut(TypedDict):
    Identifier: Annotated[str, like(Reserved.ENROLL)]
    Mobileconfig: Annotated[Base64, like(_PROFILE)]


class ProfilePage(TypedDict):
    profiles: list[ProfileOut]
    next_cursor: NotRequired[str]


def profile_out(profile: StoredProfile) -> ProfileOut:
    encoded = base64.b64encode(profile.mobileconfig).decode()
    return {"Identifier": profile.identifier, "Mobileconfig": encoded}
