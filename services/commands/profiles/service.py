"""Profiles that the operator keeps with us: read from requests as MicroMDM's clients write them.

Promises: names match without letter case, unknown names are ignored, null is absent; what is stored is
a property list, or a signed one, or BadRequest names the field.
"""

import base64
import binascii

from shared.apple.plist import read as plist
from shared.apple.request.read_json import parse_json, without_case
from shared.domain.errors import BadRequest, TooLarge, unfit
from shared.ports.access import Profiles, StoredProfile
from shared.security.signature.attached import content_of

LARGEST = 8 * 1024**2
"""Of a profile in bytes, so that it fits into one document with room to spare."""
LARGEST_REQUEST = 12 * 1024**2
"""Most bytes of a request that holds a profile in base64."""
LARGEST_PAGE = 16 * 1024**2
"""Bytes of the profiles in one answer, before base64."""
MOST_SHOWN = 1000
READ_AT_ONCE = 4
MOST_IDENTIFIERS = 1000
LONGEST_IDENTIFIER = 256
IDENTIFIER = "profile.Identifier"
MOBILECONFIG = "profile.Mobileconfig"


def read_profile(body: bytes) -> StoredProfile:
    """`{"profile": {"Identifier", "Mobileconfig": base64}}`."""
    profile = without_case(parse_json(body)).get("profile")
    if not isinstance(profile, dict):
        raise unfit("profile", "an object with Identifier and Mobileconfig")
    given = without_case(profile)
    identifier = _identifier(given.get("identifier"), IDENTIFIER)
    mobileconfig = _decoded(given.get("mobileconfig"))
    _must_be_profile(mobileconfig)
    return StoredProfile(identifier, mobileconfig)


def read_wanted(body: bytes) -> tuple[str | None, str | None]:
    """`{"id", "cursor"}`: the one that is asked for, None for all of them, and from behind which on. An
    empty body and an empty id ask for all."""
    given = without_case(parse_json(body)) if body.strip() else {}
    wanted, after = (
        None if given.get(name, "") == "" else _identifier(given[name], name)
        for name in ("id", "cursor")
    )
    return wanted, after


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
            if page and (left < 0 or len(page) == MOST_SHOWN):
                return page, page[-1].identifier
            page.append(profile)
    return page, None


def read_unwanted(body: bytes) -> list[str]:
    """`{"ids": []}`."""
    ids = (without_case(parse_json(body)) if body.strip() else {}).get("ids", [])
    if not isinstance(ids, list) or len(ids) > MOST_IDENTIFIERS:
        raise unfit("ids", f"a list of up to {MOST_IDENTIFIERS} strings")
    return [_identifier(each, f"ids[{index}]") for index, each in enumerate(ids)]


def shown(profile: StoredProfile) -> dict[str, str]:
    """A profile, as MicroMDM's clients expect it."""
    encoded = base64.b64encode(profile.mobileconfig).decode()
    return {"Identifier": profile.identifier, "Mobileconfig": encoded}


def _identifier(value: object, path: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_IDENTIFIER:
        raise unfit(path, f"a string of 1 to {LONGEST_IDENTIFIER} characters")
    if not value.isprintable():
        raise unfit(path, "a string without control characters")
    return value


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise unfit(MOBILECONFIG, "a profile in base64")
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise unfit(MOBILECONFIG, "a profile in base64") from None
    if len(decoded) > LARGEST:
        raise TooLarge(f"{MOBILECONFIG}: the profile is over {LARGEST} bytes")
    return decoded


def _must_be_profile(mobileconfig: bytes) -> None:
    """A property list, or a CMS that holds one; who signed it is the device's to judge."""
    is_signed = mobileconfig[:1] == b"\x30"
    try:
        plist.parse(content_of(mobileconfig) if is_signed else mobileconfig)
    except BadRequest:
        expected = "a property list, or a signed one"
        raise unfit(MOBILECONFIG, expected) from None
