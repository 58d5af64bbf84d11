"""/v1/profiles as MicroMDM's clients use it."""

import base64
import json
import plistlib
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.commands.profiles.routes import LARGEST_PAGE, MOST_OF_PAGE, TAG, profile_routes
from services.commands.profiles.schemas import LARGEST, LARGEST_REQUEST, MOST_IDENTIFIERS
from shared.ports.access import StoredProfile
from shared.telemetry.metrics import Metrics
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.profiles import FakeProfiles
from tests.support.harness.identities import FleetAuthority, envelope, signer_info

KEY = "secret"
PLIST = plistlib.dumps({"PayloadType": "Configuration"})
BINARY = plistlib.dumps({"PayloadType": "Configuration"}, fmt=plistlib.FMT_BINARY)


def signed(content: bytes) -> bytes:
    identity = FleetAuthority().issue()
    return envelope([signer_info(identity, content, "sha256")], [identity], content=content)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Client:
    """An API client of the routes on a fake."""

    def __init__(self) -> None:
        self.profiles = FakeProfiles()
        routes = profile_routes(self.profiles, ApiAuth([SecretStr(KEY)]))

        async def run() -> None:
            """No work in the background."""

        service = Service("commands", routes, run, openapi_tags=[TAG])
        app = create_app([service], max_body=LARGEST_REQUEST, metrics=Metrics())
        transport = httpx.ASGITransport(app=app)
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://test", auth=("micromdm", KEY)
        )

    async def call(self, method: str, body: object = b"") -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.http.request(method, "/v1/profiles", content=content)
        return answer.status_code, answer.json()

    async def put(self, identifier: object, mobileconfig: object) -> tuple[int, Any]:
        profile = {"Identifier": identifier, "Mobileconfig": mobileconfig}
        return await self.call("PUT", {"profile": profile})


@pytest.mark.parametrize("content", [PLIST, BINARY, signed(PLIST)], ids=["XML", "binary", "signed"])
async def test_a_profile_is_stored_as_it_is_and_listed_as_it_was(content: bytes) -> None:
    client = Client()

    stored = await client.put("com.example.a", encoded(content))

    assert stored == (200, {})
    assert client.profiles.stored["com.example.a"].mobileconfig == content
    shown = {"Identifier": "com.example.a", "Mobileconfig": encoded(content)}
    assert await client.call("POST", {"id": "com.example.a"}) == (200, {"profiles": [shown]})


@pytest.mark.parametrize("body", [b"", b"{}", {"id": ""}, {"id": None}, {"other": 1}])
async def test_all_profiles_are_listed_by_identifier(body: object) -> None:
    client = Client()
    for identifier in ("b", "a"):
        await client.put(identifier, encoded(PLIST))

    status, answer = await client.call("POST", body)

    assert status == 200
    assert [profile["Identifier"] for profile in answer["profiles"]] == ["a", "b"]


async def test_many_large_profiles_come_in_pages_and_each_of_them_once() -> None:
    client = Client()
    large = LARGEST_PAGE // 2 - 1000
    sizes = {"a": large, "b": 1000, "c": large, "d": large, "e": 10, "f": 10}
    for name, size in sizes.items():
        await client.profiles.put(StoredProfile(name, b"x" * size))

    pages, body = [], {}
    while True:
        status, answer = await client.call("POST", body)
        assert status == 200
        pages.append([profile["Identifier"] for profile in answer["profiles"]])
        if "next_cursor" not in answer:
            break
        body = {"id": "", "Cursor": answer["next_cursor"]}

    assert pages == [["a", "b", "c"], ["d", "e", "f"]]


async def test_an_answer_holds_so_many_profiles_at_most() -> None:
    client = Client()
    for n in range(MOST_OF_PAGE + 1):
        await client.profiles.put(StoredProfile(f"{n:04}", b"x"))

    _, first = await client.call("POST", {})
    _, second = await client.call("POST", {"cursor": first["next_cursor"]})

    assert len(first["profiles"]) == MOST_OF_PAGE
    assert [profile["Identifier"] for profile in second["profiles"]] == [f"{MOST_OF_PAGE:04}"]


async def test_names_match_without_letter_case() -> None:
    client = Client()
    body = {"Profile": {"identifier": "a", "mobileconfig": encoded(PLIST), "more": 1}}

    assert await client.call("PUT", body) == (200, {})
    assert await client.call("DELETE", {"IDs": ["a"]}) == (200, {})
    assert client.profiles.stored == {}


async def test_a_profile_that_nobody_stored_is_not_found() -> None:
    status, answer = await Client().call("POST", {"id": "com.example.nobody"})

    assert status == 404
    assert "com.example.nobody" in answer["error"]


async def test_deleting_what_is_not_there_is_no_error() -> None:
    client = Client()
    await client.put("a", encoded(PLIST))

    assert await client.call("DELETE", {"ids": ["b"]}) == (200, {})
    assert await client.call("DELETE") == (200, {})
    assert list(client.profiles.stored) == ["a"]


@pytest.mark.parametrize(
    ("identifier", "mobileconfig", "field"),
    [
        (None, encoded(PLIST), "profile.Identifier"),
        ("", encoded(PLIST), "profile.Identifier"),
        (7, encoded(PLIST), "profile.Identifier"),
        ("a\nb", encoded(PLIST), "profile.Identifier"),
        ("a" * 257, encoded(PLIST), "profile.Identifier"),
        ("a", None, "profile.Mobileconfig"),
        ("a", 7, "profile.Mobileconfig"),
        ("a", "not base64!", "profile.Mobileconfig"),
        ("a", "", "profile.Mobileconfig"),
        ("a", encoded(b"no plist"), "profile.Mobileconfig"),
        ("a", encoded(plistlib.dumps(["a list"])), "profile.Mobileconfig"),
        ("a", encoded(b"\x30\x03\x02\x01\x01"), "profile.Mobileconfig"),
        ("a", encoded(signed(b"no plist")), "profile.Mobileconfig"),
        ("a", encoded(FleetAuthority().issue().cms(PLIST)), "profile.Mobileconfig"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_the_name_of_its_field(
    identifier: object, mobileconfig: object, field: str
) -> None:
    client = Client()

    status, answer = await client.put(identifier, mobileconfig)

    assert status == 400
    assert answer["error"].startswith(f"{field}: expected")
    assert [fault["path"] for fault in answer["faults"]] == [field]
    assert client.profiles.stored == {}


@pytest.mark.parametrize(
    ("method", "body", "field"),
    [
        ("PUT", {}, "profile"),
        ("PUT", {"profile": "a"}, "profile"),
        ("POST", {"id": 7}, "id"),
        ("DELETE", {"ids": "a"}, "ids"),
        ("DELETE", {"ids": ["a"] * (MOST_IDENTIFIERS + 1)}, "ids"),
        ("DELETE", {"ids": ["a", 7]}, "ids[1]"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused(method: str, body: object, field: str) -> None:
    client = Client()
    client.profiles.stored["a"] = StoredProfile("a", PLIST)

    status, answer = await client.call(method, body)

    assert status == 400
    assert answer["error"].startswith(f"{field}: expected")
    assert list(client.profiles.stored) == ["a"]


async def test_a_profile_over_the_limit_is_refused() -> None:
    client = Client()

    status, _ = await client.put("a", encoded(PLIST + bytes(LARGEST)))

    assert status == 413
    assert client.profiles.stored == {}


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_every_route_needs_the_api_key(method: str) -> None:
    client = Client()
    client.http.auth = ("micromdm", "wrong")

    assert (await client.call(method, b"{}"))[0] == 401
