"""Programs read the catalogue over HTTP: the same facts that requests are checked by."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from tests.support.command_requests import CATALOGUE
from tests.support.commands_world import World
from tests.support.posting_world import PostingWorld

KEY = "secret"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    auth = ApiAuth([SecretStr(KEY)])
    app = create_app([PostingWorld(World()).service(auth)], max_body=1000, metrics=None)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://server", auth=("micromdm", KEY)
    ) as client:
        yield client


async def one(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await http.get(f"/v1/request_types/{name}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def named(keys: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [key for key in keys if key["name"] == name]
    return found


async def test_all_commands_are_listed_with_what_they_need(http: httpx.AsyncClient) -> None:
    answer = (await http.get("/v1/request_types")).json()

    assert answer["release"] == CATALOGUE.release
    listed = {each["request_type"]: each for each in answer["request_types"]}
    assert tuple(listed) == tuple(CATALOGUE.forms)
    assert listed["InstallProfile"]["required"] == ["payload"]
    assert listed["EraseDevice"]["systems"]["macOS"]["user_channel"] is False
    assert listed["EnableLostMode"]["systems"]["macOS"]["available"] is False


async def test_a_command_tells_its_keys_in_both_spellings(http: httpx.AsyncClient) -> None:
    lock = await one(http, "DeviceLock")

    pin = named(lock["keys"], "pin")
    assert (pin["apple_name"], pin["type"], pin["required"]) == ("PIN", "string", False)
    assert pin["systems"]["iOS"] == {"available": False}


async def test_nested_keys_and_alternatives_are_told(http: httpx.AsyncClient) -> None:
    erase = await one(http, "EraseDevice")
    behavior = named(erase["keys"], "obliteration_behavior")
    assert behavior["allowed"][0] == "Default"
    service = named(erase["keys"], "return_to_service")
    assert named(service["keys"], "enabled")["required"] is True

    settings = await one(http, "Settings")
    items = named(settings["keys"], "settings")["items"]
    assert items["told_apart_by"] == "item"
    assert "Bluetooth" in [each["value"] for each in items["alternatives"]]


async def test_known_values_are_told_with_their_systems(http: httpx.AsyncClient) -> None:
    device = await one(http, "DeviceInformation")
    known = named(device["keys"], "queries")["items"]["known"]
    [imei] = [each for each in known if each["value"] == "IMEI"]
    assert imei["systems"]["macOS"] == {"available": False}


@pytest.mark.parametrize("name", tuple(CATALOGUE.forms))
async def test_every_command_has_an_example_that_fits_its_schema(
    http: httpx.AsyncClient, name: str
) -> None:
    found = await one(http, name)

    assert found["request_type"] == name
    Draft202012Validator(found["schema"]).validate(found["example"])
    assert {key["name"] for key in found["keys"]} <= set(found["schema"]["properties"])


async def test_an_unknown_name_is_not_found_and_the_nearest_one_is_named(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.get("/v1/request_types/DeviceLok")

    assert answer.status_code == 404
    assert "DeviceLock" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/request_types", "/v1/request_types/DeviceLock"])
async def test_the_catalogue_needs_the_key(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path, auth=("micromdm", "wrong"))

    assert answer.status_code == 401
