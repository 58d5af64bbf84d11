"""The command API as MicroMDM's clients see it: paths, bodies, statuses."""

import base64
import json
import plistlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.commands.devices.routes import TAG as DEVICES_TAG
from services.commands.profiles.schemas import LARGEST_REQUEST
from services.commands.submit.routes import TAG
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.request.terms import TERMS
from shared.domain.command import EntryState
from shared.domain.enrollment import EnrollmentStatus
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from tests.support.commands_world import ANNA_ON_PAD, FIRST_UUID, MAC, World, enrolled
from tests.support.posting_world import PostingWorld

KEY = "secret"
JSON = "application/json; charset=utf-8"
CATALOGUE = CommandCatalogue.load()


class Client:
    """An API client of a commands service on fakes."""

    def __init__(self, world: World) -> None:
        self.world = world
        auth = ApiAuth([SecretStr(KEY)])
        service = PostingWorld(world).service(auth, tags=(TAG, DEVICES_TAG))
        app = create_app([service], max_body=LARGEST_REQUEST, metrics=world.metrics)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://server",
            auth=("micromdm", KEY),
        )

    async def call(
        self, method: str, path: str, body: object = b"", **options: Any
    ) -> tuple[int, Any]:
        """Status and JSON; every answer of the API says that it is JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.http.request(method, path, content=content, **options)
        assert answer.headers["content-type"] == JSON
        return answer.status_code, answer.json()

    async def post(self, **command: object) -> tuple[int, Any]:
        return await self.call("POST", "/v1/commands", {"udid": "MAC", **command})


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client(World())
    yield made
    await made.http.aclose()


def raw_plist(uuid: str = FIRST_UUID, request_type: str = "ProfileList") -> bytes:
    return plistlib.dumps({"CommandUUID": uuid, "Command": {"RequestType": request_type}})


# --- authentication


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/commands"),
        ("POST", "/v1/commands/MAC"),
        ("PUT", "/v1/commands/MAC"),
        ("GET", "/v1/commands/MAC"),
        ("DELETE", "/v1/commands/MAC"),
        ("POST", "/v1/devices"),
        ("DELETE", "/v1/devices"),
        ("POST", "/v1/devices/MAC/block"),
        ("POST", "/v1/devices/MAC/unblock"),
    ],
)
async def test_every_route_needs_the_api_key(client: Client, method: str, path: str) -> None:
    for auth in (None, ("micromdm", "wrong"), ("somebody", KEY)):
        client.http.auth = auth  # type: ignore[assignment]  # httpx takes a tuple or None
        answer = await client.http.request(method, path, content=b"{}")

        assert answer.status_code == 401
        assert answer.json()["error"] == "Unauthorized"
        assert answer.headers["www-authenticate"] == 'Basic realm="micromdm"'


# --- POST /v1/commands


async def test_a_command_is_queued_and_answered_as_micromdm_does(client: Client) -> None:
    status, answer = await client.post(request_type="DeviceInformation", queries=["OSVersion"])

    assert status == 201
    uuid = answer["payload"]["command_uuid"]
    assert answer == {
        "payload": {
            "command_uuid": uuid,
            "command": {"request_type": "DeviceInformation", "queries": ["OSVersion"]},
        }
    }
    assert await client.world.shown() == [uuid]


async def test_a_command_is_stored_as_the_plist_that_the_device_gets(client: Client) -> None:
    await client.post(
        request_type="DeviceInformation", queries=["OSVersion"], command_uuid=FIRST_UUID
    )

    [stored] = await client.world.open_commands.of("MAC")
    assert plistlib.loads(stored.plist) == {
        "CommandUUID": FIRST_UUID,
        "Command": {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]},
    }


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "text/plain", "application/json", "", "nonsense"],
)
async def test_json_is_taken_under_any_content_type(client: Client, content_type: str) -> None:
    status, _ = await client.call(
        "POST",
        "/v1/commands",
        {"udid": "MAC", "request_type": "ProfileList"},
        headers={"Content-Type": content_type},
    )

    assert status == 201


async def test_names_match_without_letter_case(client: Client) -> None:
    status, answer = await client.call(
        "POST",
        "/v1/commands",
        {"UDID": "MAC", "Request_Type": "DeviceInformation", "Queries": ["OSVersion"]},
    )

    assert status == 201
    assert answer["payload"]["command"]["queries"] == ["OSVersion"]


async def test_a_path_with_two_slashes_works(client: Client) -> None:
    status, _ = await client.call(
        "POST", "http://server//v1//commands", {"udid": "MAC", "request_type": "ProfileList"}
    )

    assert status == 201


async def test_a_command_for_a_user_is_queued_for_that_user(client: Client) -> None:
    status, _ = await client.post(udid="anna", request_type="ProfileList")

    assert status == 201
    assert len(await client.world.shown("MAC:anna")) == 1


async def test_a_repeated_command_is_answered_200_with_the_first_answer(client: Client) -> None:
    command = {"request_type": "ProfileList", "command_uuid": FIRST_UUID}
    first = await client.post(**command)

    again = await client.post(**command)

    assert first[0] == 201
    assert again == (200, first[1])


async def test_another_command_under_a_uuid_that_is_taken_is_a_conflict(client: Client) -> None:
    await client.post(request_type="ProfileList", command_uuid=FIRST_UUID)

    status, answer = await client.post(request_type="SecurityInfo", command_uuid=FIRST_UUID)

    assert status == 409
    assert FIRST_UUID in answer["error"]


async def test_an_unknown_device_is_not_found(client: Client) -> None:
    status, answer = await client.post(udid="NOBODY", request_type="ProfileList")

    assert status == 404
    assert "NOBODY" in answer["error"]


async def test_an_ambiguous_user_is_a_conflict_that_names_the_full_ids(client: Client) -> None:
    client.world.enrollments.add(enrolled(ANNA_ON_PAD))

    status, answer = await client.post(udid="anna", request_type="ProfileList")

    assert status == 409
    assert "MAC:anna" in answer["error"]
    assert "PAD:anna" in answer["error"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b"not json", "body"),
        (b"[]", "body"),
        (b'{"udid": "MAC"}', "request_type"),
        (b'{"request_type": "ProfileList"}', "udid"),
        (b'{"udid": 7, "request_type": "ProfileList"}', "udid"),
        (b'{"udid": "MAC", "request_type": "MakeCoffee"}', "request_type"),
        (b'{"udid": "MAC", "request_type": "ProfileList", "milk": true}', "milk"),
        (b'{"udid": "MAC", "request_type": "InstallProfile", "payload": "%"}', "payload"),
        (b'{"udid": "MAC", "udid": "PAD", "request_type": "ProfileList"}', "udid"),
        (b'{"udid": "MAC", "request_type": "ProfileList", "x": 1e400}', "x"),
        (b'{"udid": "MAC", "request_type": "ProfileList", "x": NaN}', "x"),
        (b"[" * 50_000, "body"),
        (b"\xff\xfe", "body"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    client: Client, body: bytes, named: str
) -> None:
    status, answer = await client.call("POST", "/v1/commands", body)

    assert status == 400
    assert named in answer["error"]
    assert client.world.queue.entries == {}


async def test_a_body_over_the_limit_is_refused(client: Client) -> None:
    status, answer = await client.call("POST", "/v1/commands", b" " * (LARGEST_REQUEST + 1))

    assert status == 413
    assert "error" in answer


# --- raw property lists


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_raw_plist_is_delivered_byte_for_byte(client: Client, method: str) -> None:
    plist = raw_plist() + b"\n<!-- kept -->\n"

    status, answer = await client.call(method, "/v1/commands/MAC", plist)

    assert status == 201
    assert answer == {
        "payload": {
            "udid": "MAC",
            "command_uuid": FIRST_UUID,
            "command": {"request_type": "ProfileList"},
            "payload": base64.b64encode(plist).decode(),
        }
    }
    [stored] = await client.world.open_commands.of("MAC")
    assert stored.plist == plist


@pytest.mark.parametrize(
    "plist",
    [
        b"",
        b"not a plist",
        plistlib.dumps({"Command": {"RequestType": "ProfileList"}}),
        plistlib.dumps({"CommandUUID": FIRST_UUID}),
        plistlib.dumps({"CommandUUID": FIRST_UUID, "Command": {}}),
        plistlib.dumps(["a list"]),
    ],
)
async def test_nothing_is_invented_for_a_raw_plist(client: Client, plist: bytes) -> None:
    status, _ = await client.call("POST", "/v1/commands/MAC", plist)

    assert status == 400
    assert client.world.queue.entries == {}


async def test_a_raw_plist_may_be_of_a_type_that_nobody_knows_yet(client: Client) -> None:
    plist = raw_plist(request_type="TomorrowsCommand")

    status, _ = await client.call("POST", "/v1/commands/MAC", plist)

    assert status == 201


# --- the queue


async def test_the_queue_shows_all_open_commands_in_order(client: Client) -> None:
    for n, request_type in enumerate(("ProfileList", "SecurityInfo", "UserList")):
        await client.post(request_type=request_type, command_uuid=f"uuid-{n}")
    marked_sent = await client.world.connect()
    assert marked_sent is not None
    await client.world.answer(marked_sent, EntryState.NOT_NOW)

    status, answer = await client.call("GET", "/v1/commands/MAC")

    assert status == 200
    assert [command["uuid"] for command in answer["commands"]] == ["uuid-0", "uuid-1", "uuid-2"]
    plist = plistlib.loads(base64.b64decode(answer["commands"][0]["payload"]))
    assert plist["CommandUUID"] == "uuid-0"
    assert set(answer["commands"][0]) == {"uuid", "payload"}


@pytest.mark.parametrize("name", ["MAC", "NOBODY"])
async def test_an_empty_queue_is_an_empty_object(client: Client, name: str) -> None:
    assert await client.call("GET", f"/v1/commands/{name}") == (200, {})


async def test_clearing_empties_the_queue(client: Client) -> None:
    await client.post(request_type="ProfileList")
    await client.post(request_type="SecurityInfo")
    await client.world.connect()

    assert await client.call("DELETE", "/v1/commands/MAC") == (200, {})

    assert await client.call("GET", "/v1/commands/MAC") == (200, {})


async def test_clearing_the_queue_of_an_unknown_device_is_no_error(client: Client) -> None:
    assert await client.call("DELETE", "/v1/commands/NOBODY") == (200, {})


async def test_a_method_that_a_path_does_not_know_is_405_in_json(client: Client) -> None:
    status, answer = await client.call("PATCH", "/v1/commands/MAC")

    assert status == 405
    assert "error" in answer


# --- devices


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        {"page": 0, "per_page": 0, "filter_serial": None, "filter_udid": None},
        {"PAGE": 0, "Per_Page": 0, "filter_serial": []},
        {"unknown": "ignored"},
    ],
)
async def test_all_devices_are_listed_unless_asked_otherwise(client: Client, body: object) -> None:
    status, answer = await client.call("POST", "/v1/devices", body)

    assert status == 200
    assert [device["udid"] for device in answer["devices"]] == ["", "MAC", "PAD"]


async def test_a_device_has_micromdms_five_keys_before_ours(client: Client) -> None:
    world = client.world
    seen = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    world.enrollments.add(replace(world.enrollments.records["MAC"], last_seen=seen))

    _, answer = await client.call("POST", "/v1/devices", {"filter_udid": ["MAC"]})

    [device] = answer["devices"]
    assert list(device.items())[:5] == [
        ("serial_number", "C02"),
        ("udid", "MAC"),
        ("enrollment_status", True),
        ("last_seen", "2026-01-02T03:04:05Z"),
        ("dep_profile_status", ""),
    ]


async def test_a_device_that_left_is_not_enrolled(client: Client) -> None:
    world = client.world
    left = replace(world.enrollments.records["MAC"], status=EnrollmentStatus.CHECKED_OUT)
    world.enrollments.add(left)

    _, answer = await client.call("POST", "/v1/devices", {"filter_serial": ["C02"]})

    assert answer["devices"][0]["enrollment_status"] is False


async def test_a_user_enrollment_has_its_enrollment_id_instead_of_a_udid(client: Client) -> None:
    _, answer = await client.call("POST", "/v1/devices")

    [private] = [device for device in answer["devices"] if device["udid"] == ""]
    assert private["enrollment_id"] == "E-1"
    assert private["last_seen"] == "0001-01-01T00:00:00Z"


async def test_devices_come_in_pages(client: Client) -> None:
    pages = [
        (await client.call("POST", "/v1/devices", {"page": page, "per_page": 2}))[1]["devices"]
        for page in range(3)
    ]

    assert [len(page) for page in pages] == [2, 1, 0]


@pytest.mark.parametrize(
    "name", ["filter_serials", "Filter_UDIDs", "filter_", "filter_" + "x" * 300]
)
async def test_a_filter_that_nobody_knows_is_refused_by_its_name(client: Client, name: str) -> None:
    status, answer = await client.call("POST", "/v1/devices", {name: ["NOPE"]})

    assert status == 400
    [fault] = answer["faults"]
    assert fault["path"] == name.lower()[:80]
    assert "filter_" in fault["expected"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"page": -1}, "page"),
        ({"per_page": "ten"}, "per_page"),
        ({"page": True}, "page"),
        ({"filter_serial": "C02"}, "filter_serial"),
        ({"filter_udid": ["MAC", 7]}, "filter_udid[1]"),
        (b"[]", "body"),
        (b"{", "body"),
    ],
)
async def test_a_query_that_cannot_be_used_is_refused_by_name(
    client: Client, body: object, named: str
) -> None:
    status, answer = await client.call("POST", "/v1/devices", body)

    assert status == 400
    assert named in answer["error"]


@pytest.mark.parametrize(
    "body",
    [
        {"Opts": {"udids": ["MAC"], "serials": []}},
        {"opts": {"UDIDs": ["MAC"], "serials": None}},
        {"udids": ["MAC"], "serials": []},
        {"Opts": {"serials": ["C02"]}},
        {"serials": ["C02"]},
        {"Opts": {"udids": ["MAC", "NOBODY"]}},
    ],
)
async def test_devices_are_removed_in_both_forms(client: Client, body: object) -> None:
    await client.post(request_type="ProfileList", command_uuid=FIRST_UUID)

    assert await client.call("DELETE", "/v1/devices", body) == (200, {})

    _, answer = await client.call("POST", "/v1/devices")
    assert [device["udid"] for device in answer["devices"]] == ["", "PAD"]
    assert client.world.entry(MAC).state is EntryState.CANCELLED


@pytest.mark.parametrize("body", [b"", {}, {"Opts": {}}, {"udids": ["NOBODY"]}])
async def test_removing_nobody_removes_nobody(client: Client, body: object) -> None:
    assert await client.call("DELETE", "/v1/devices", body) == (200, {})

    _, answer = await client.call("POST", "/v1/devices")
    assert len(answer["devices"]) == 3


@pytest.mark.parametrize("body", [{"Opts": []}, {"udids": "MAC"}, {"Opts": {"serials": [1]}}])
async def test_a_removal_that_cannot_be_used_is_refused(client: Client, body: object) -> None:
    status, _ = await client.call("DELETE", "/v1/devices", body)

    assert status == 400


MANY = [f"NOBODY-{number}" for number in range(10_000)]


@pytest.mark.parametrize(
    ("method", "body", "key"),
    [
        ("POST", {"filter_udid": [*MANY, "MAC"]}, "filter_udid"),
        ("POST", {"filter_serial": [*MANY, "C02"]}, "filter_serial"),
        ("DELETE", {"udids": [*MANY, "MAC"]}, "udids"),
        ("DELETE", {"Opts": {"serials": [*MANY, "C02"]}}, "serials"),
    ],
)
async def test_a_list_of_more_than_10000_names_is_refused_by_its_key(
    client: Client, method: str, body: object, key: str
) -> None:
    status, answer = await client.call(method, "/v1/devices", body)

    assert status == 400
    assert answer["error"] == f"{key}: expected a list of up to 10000 strings"
    assert len((await client.call("POST", "/v1/devices"))[1]["devices"]) == 3


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"filter_udid": [*MANY[:-2], "PAD", "MAC"]}, ["MAC", "PAD"]),
        ({"filter_serial": [*MANY[:-1], "C02"]}, ["MAC"]),
        (
            {"filter_udid": [*MANY[:-2], "PAD", "MAC"], "filter_serial": [*MANY[:-1], "C02"]},
            ["MAC"],
        ),
        ({"filter_udid": ["PAD"], "filter_serial": [*MANY[:-1], "C02"]}, []),
        ({"filter_udid": ["MAC", *MANY[:-2], "MAC"]}, ["MAC"]),
        ({"filter_udid": [*MANY[:-2], "PAD", "MAC"], "page": 1, "per_page": 1}, ["PAD"]),
    ],
)
async def test_the_store_is_asked_for_a_hundred_names_at_a_time(
    client: Client, filters: object, found: list[str]
) -> None:
    _, answer = await client.call("POST", "/v1/devices", filters)

    assert [device["udid"] for device in answer["devices"]] == found
    assert 1 <= max(client.world.enrollments.asked) <= 100


async def test_ten_thousand_devices_are_removed_a_hundred_at_a_time(client: Client) -> None:
    await client.post(request_type="ProfileList", command_uuid=FIRST_UUID)
    body = {"udids": [*MANY[:-1], "MAC"], "serials": [*MANY[:-1], "C02"]}

    client.world.enrollments.asked.clear()  # of the command

    assert await client.call("DELETE", "/v1/devices", body) == (200, {})

    assert max(client.world.enrollments.asked) == 100
    assert client.world.entry(MAC).state is EntryState.CANCELLED
    assert len((await client.call("POST", "/v1/devices"))[1]["devices"]) == 2


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_body_that_is_no_command_has_a_mebibyte_at_most(
    client: Client, method: str
) -> None:
    body = b'{"page": 0' + b" " * (1024**2 - 11)

    assert (await client.call(method, "/v1/devices", body + b"}"))[0] == 200
    assert (await client.call(method, "/v1/devices", body + b" }"))[0] == 413


@pytest.mark.parametrize("name", ["MAC", "C02"])
async def test_a_device_is_blocked_and_unblocked(client: Client, name: str) -> None:
    assert await client.call("POST", f"/v1/devices/{name}/block") == (200, {})
    assert client.world.enrollments.records["MAC"].blocked is True

    assert await client.call("POST", f"/v1/devices/{name}/unblock") == (200, {})
    assert client.world.enrollments.records["MAC"].blocked is False


@pytest.mark.parametrize("action", ["block", "unblock"])
async def test_blocking_an_unknown_device_is_not_found(client: Client, action: str) -> None:
    status, answer = await client.call("POST", f"/v1/devices/NOBODY/{action}")

    assert status == 404
    assert "NOBODY" in answer["error"]


# --- OpenAPI


async def test_openapi_describes_every_route_with_its_errors(client: Client) -> None:
    described = (await client.http.get("/openapi.json")).json()

    routes = {
        (method, path): operation
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if path.startswith(("/v1/commands", "/v1/devices"))
    }
    assert len(routes) == 19
    for operation in routes.values():
        assert operation["summary"]
        assert "503" in operation["responses"]
        assert operation["responses"]["401"]["content"]["application/json"]["example"]["error"]


async def test_openapi_describes_every_command_with_an_example(client: Client) -> None:
    described = (await client.http.get("/openapi.json")).json()

    operation = described["paths"]["/v1/commands"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    mapping = body["discriminator"]["mapping"]
    assert mapping.keys() == set(tuple(CATALOGUE.forms))
    assert [one["$ref"] for one in body["oneOf"]] == list(mapping.values())
    for request_type, reference in mapping.items():
        command = described["components"]["schemas"][reference.rpartition("/")[2]]
        assert command["example"]["request_type"] == request_type


async def test_openapi_names_the_terms_of_a_raw_command(client: Client) -> None:
    described = (await client.http.get("/openapi.json")).json()

    for method in ("post", "put"):
        parameters = described["paths"]["/v1/commands/{udid}"][method]["parameters"]
        assert {each["name"] for each in parameters} == {"udid", "wait", *TERMS.values()}
