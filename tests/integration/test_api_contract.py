"""What API clients are answered, over HTTP: the rows of MicroMDM's contract, errors in JSON included.

All requests say `application/x-www-form-urlencoded`, as those of `curl -d` do.
"""

import base64
import plistlib
import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.integration.whole import Device, Whole, given, new_id
from tests.support.harness.apns import reason
from tests.support.harness.system import API_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = "application/json; charset=utf-8"
MDM_KEYS = {"serial_number", "udid", "enrollment_status", "last_seen", "dep_profile_status"}


def is_error(answer: httpx.Response, status: int, *words: str) -> None:
    """An error as MicroMDM's client shows it, with the members of RFC 9457 beside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    body = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:macromdm:problem:")
    assert body["title"] and body["detail"]
    assert body["error"] == ("Unauthorized" if status == 401 else body["detail"])
    for word in words:
        assert word in body["error"], body["error"]


def is_answer(answer: httpx.Response, status: int, body: object) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, JSON), answer.text
    assert answer.json() == body


# --- who may ask -------------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/v1/commands"),
    ("POST", "/v1/commands/X"),
    ("PUT", "/v1/commands/X"),
    ("GET", "/v1/commands/X"),
    ("DELETE", "/v1/commands/X"),
    ("POST", "/v1/devices"),
    ("DELETE", "/v1/devices"),
    ("POST", "/v1/devices/X/block"),
    ("POST", "/v1/devices/X/unblock"),
    ("GET", "/push/X"),
    ("POST", "/v1/push/X"),
]
CREDENTIALS: dict[str, object] = {
    "none": None,
    "a wrong key": ("micromdm", "wrong"),
    "a wrong user": ("admin", API_KEY),
    "an empty key": ("micromdm", ""),
    "a long key": ("micromdm", "x" * 50_000),
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("auth", CREDENTIALS.values(), ids=CREDENTIALS.keys())
async def test_without_the_key_every_route_is_401_with_a_challenge(
    whole: Whole, method: str, path: str, auth: Any
) -> None:
    # Each route from an address of its own: many failures from one are answered 429.
    address = f"127.0.1.{1 + ROUTES.index((method, path))}"
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport) as http:
        answer = await http.request(method, whole.url_of(path), json={}, auth=auth)

    is_error(answer, 401)
    assert answer.headers["www-authenticate"] == 'Basic realm="micromdm"'
    assert answer.json()["error"] == "Unauthorized"


async def test_the_version_needs_no_key(whole: Whole) -> None:
    answer = await whole.http.get(whole.process.url + "/version")

    assert answer.headers["content-type"] == JSON
    assert answer.json().keys() == {
        "version",
        "branch",
        "revision",
        "go_version",
        "build_date",
        "build_user",
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/metrics", 404),
        ("GET", "/healthz", 404),
        ("PUT", "/v1/commands", 405),
        ("PATCH", "/v1/commands/X", 405),
        ("PUT", "/v1/devices", 405),
        ("POST", "/push/X", 405),
        ("GET", "/v1/push/X", 405),
        ("DELETE", "/version", 405),
        ("GET", "/v1/devices/X/block", 405),
    ],
)
async def test_an_unknown_path_or_method_is_an_error_in_json(
    whole: Whole, method: str, path: str, status: int
) -> None:
    is_error(await whole.api(method, path), status)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/commands/"), ("POST", "/v1/devices/"), ("PUT", "/mdm/checkin/")],
)
async def test_a_closing_slash_is_another_path_and_never_a_redirect(
    whole: Whole, method: str, path: str
) -> None:
    answer = await whole.api(method, path, {})

    assert answer.status_code in (404, 405)
    assert answer.headers["content-type"] == JSON


HOSTILE_IDS = {
    "a NUL": "%00",
    "no UTF-8": "%FF",
    "a surrogate": "%ED%A0%80",
    "dots": "%2E%2E",
    "an operator of the store": "%24where",
    "braces": "%7B%24gt%3A1%7D",
    "a line break": "a%0D%0Ab",
    "a long one": "a" * 20_000,
    "a colon": ":",
}


@pytest.mark.parametrize("name", HOSTILE_IDS.values(), ids=HOSTILE_IDS.keys())
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "X" in route[1]])
async def test_an_id_of_nobody_is_never_more_than_unknown(
    whole: Whole, method: str, path: str, name: str
) -> None:
    plist = plistlib.dumps({"CommandUUID": new_id(), "Command": {"RequestType": "ProfileList"}})

    answer = await whole.api(method, path.replace("X", name), plist)

    expected = {200} if path == "/v1/commands/X" and method in ("GET", "DELETE") else {400, 404}
    assert answer.status_code in expected, answer.text
    assert answer.headers["content-type"] == JSON


async def test_a_large_body_may_wait_for_100_continue(whole: Whole) -> None:
    device = await whole.enrolled()
    profile = base64.b64encode(plistlib.dumps({"Payload": b"x" * 2_000_000})).decode()
    body = {"udid": device.id, "request_type": "InstallProfile", "payload": profile}

    answer = await whole.api("POST", "/v1/commands", body, headers={"Expect": "100-continue"})

    assert answer.status_code == 201
    assert len((await device.connect()).content) > 2_000_000


# --- queueing ----------------------------------------------------------------------------------------


async def test_a_command_is_answered_with_the_fields_given_and_reaches_its_device(
    whole: Whole,
) -> None:
    device = await whole.enrolled()
    body = {
        "udid": device.id,
        "request_type": "DeviceInformation",
        "Queries": ["OSVersion", "DeviceName"],
    }

    answer = await whole.api("POST", "/v1/commands", body)

    command_uuid = answer.json()["payload"]["command_uuid"]
    assert str(uuid.UUID(command_uuid)) == command_uuid
    command = {"request_type": "DeviceInformation", "queries": ["OSVersion", "DeviceName"]}
    is_answer(answer, 201, {"payload": {"command_uuid": command_uuid, "command": command}})
    assert plistlib.loads((await device.connect()).content) == {
        "CommandUUID": command_uuid,
        "Command": {"RequestType": "DeviceInformation", "Queries": ["OSVersion", "DeviceName"]},
    }


async def test_a_queued_command_pushes_its_device(whole: Whole) -> None:
    device = await whole.enrolled()

    await device.queue()

    assert await whole.pushed(device.token) == {"mdm": f"magic-{device.id}"}


async def test_doubled_slashes_are_one(whole: Whole) -> None:
    device = await whole.enrolled()
    body = {"udid": device.id, "request_type": "ProfileList"}

    assert (await whole.api("POST", "//v1//commands", body)).status_code == 201
    assert (await whole.api("GET", f"//push//{device.id}")).status_code == 200


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/json", "application/xml", "nonsense"]
)
async def test_json_is_read_under_any_content_type(whole: Whole, content_type: str | None) -> None:
    device = await whole.enrolled()
    headers = {"Content-Type": content_type} if content_type else {}
    body = {"udid": device.id, "request_type": "ProfileList"}

    answer = await whole.api("POST", "/v1/commands", body, headers=headers)

    assert answer.status_code == 201


async def test_the_form_of_apple_is_accepted(whole: Whole) -> None:
    device = await whole.enrolled()
    command = {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]}

    answer = await whole.api("POST", "/v1/commands", {"udid": device.id, "Command": command})

    assert answer.status_code == 201, answer.text
    assert plistlib.loads((await device.connect()).content)["Command"] == command


async def test_a_command_may_name_a_user_an_enrollment_or_a_serial_number(whole: Whole) -> None:
    device = await whole.enrolled()
    user = device.user(UserID=new_id())
    await user.token_update()
    byod = await whole.enrolled(EnrollmentID=new_id())
    named = {user.ids["UserID"]: user, byod.id: byod, f"S{device.id[:10]}": device}

    for name, meant in named.items():
        body = {"udid": name, "request_type": "ProfileList"}
        answer = await whole.api("POST", "/v1/commands", body)
        assert answer.status_code == 201, name
        assert given(await meant.connect()) == answer.json()["payload"]["command_uuid"]


BAD_COMMANDS: dict[str, tuple[Callable[[str], object], str]] = {
    "nothing": (lambda udid: b"", "JSON"),
    "no JSON": (lambda udid: b"udid=1", "JSON"),
    "no object": (lambda udid: [1], "JSON"),
    "NaN": (lambda udid: b'{"udid": "x", "request_type": "ProfileList", "n": NaN}', ""),
    "a number without end": (
        lambda udid: b'{"udid": "x", "request_type": "ProfileList", "n": 1e400}',
        "n",
    ),
    "a doubled key": (
        lambda udid: b'{"udid": "x", "udid": "y", "request_type": "ProfileList"}',
        "udid",
    ),
    "nested 100,000 deep": (lambda udid: b'{"a":' + b"[" * 100_000, ""),
    "no udid": (lambda udid: {"request_type": "ProfileList"}, "udid"),
    "an empty udid": (lambda udid: {"udid": "", "request_type": "ProfileList"}, "udid"),
    "a udid that is a number": (lambda udid: {"udid": 1, "request_type": "ProfileList"}, "udid"),
    "no request_type": (lambda udid: {"udid": udid}, "request_type"),
    "an unknown request_type": (
        lambda udid: {"udid": udid, "request_type": "Nonsense"},
        "request_type",
    ),
    "an unknown name": (
        lambda udid: {"udid": udid, "request_type": "ProfileList", "colour": "red"},
        "colour",
    ),
    "a wrong type": (
        lambda udid: {"udid": udid, "request_type": "DeviceInformation", "queries": "OSVersion"},
        "queries",
    ),
    "a wrong type inside": (
        lambda udid: {"udid": udid, "request_type": "DeviceInformation", "queries": ["a", 1]},
        "queries[1]",
    ),
    "bad base64": (
        lambda udid: {"udid": udid, "request_type": "InstallProfile", "payload": "%%%"},
        "payload",
    ),
    "a command_uuid that is a number": (
        lambda udid: {"udid": udid, "request_type": "ProfileList", "command_uuid": 7},
        "command_uuid",
    ),
}


@pytest.mark.parametrize(("make", "word"), BAD_COMMANDS.values(), ids=BAD_COMMANDS.keys())
async def test_an_unusable_command_is_400_and_names_the_field(
    whole: Whole, make: Callable[[str], object], word: str
) -> None:
    device = await whole.enrolled()

    answer = await whole.api("POST", "/v1/commands", make(device.id))

    is_error(answer, 400, word)
    assert await device.open_commands() == []


async def test_a_body_over_the_limit_is_413_in_json(whole: Whole) -> None:
    is_error(await whole.api("POST", "/v1/commands", b"x" * (12 * 1024**2 + 1)), 413)


async def test_a_command_for_an_unknown_device_is_404(whole: Whole) -> None:
    body = {"udid": new_id(), "request_type": "ProfileList"}

    is_error(await whole.api("POST", "/v1/commands", body), 404, "udid", str(body["udid"]))


async def test_a_user_of_several_devices_is_409_and_the_full_ids_are_named(whole: Whole) -> None:
    user = new_id()
    devices = [await whole.enrolled() for _ in range(2)]
    for device in devices:
        await device.user(UserID=user).token_update()

    answer = await whole.api("POST", "/v1/commands", {"udid": user, "request_type": "ProfileList"})

    is_error(answer, 409, *(f"{device.id}:{user}" for device in devices))


# --- the same CommandUUID again ----------------------------------------------------------------------


def profile_list(device: Device, command_uuid: str) -> dict[str, str]:
    return {"udid": device.id, "request_type": "ProfileList", "command_uuid": command_uuid}


async def test_a_command_sent_again_is_200_with_the_first_answer(whole: Whole) -> None:
    device = await whole.enrolled()
    body = profile_list(device, new_id())

    first = await whole.api("POST", "/v1/commands", body)
    second = await whole.api("POST", "/v1/commands", body)
    await device.connect()
    await device.connect("Acknowledged", CommandUUID=body["command_uuid"])
    third = await whole.api("POST", "/v1/commands", body)

    assert first.status_code == 201
    is_answer(second, 200, first.json())
    is_answer(third, 200, first.json())
    assert await device.open_commands() == []


async def test_another_command_under_the_same_uuid_is_409(whole: Whole) -> None:
    device = await whole.enrolled()
    body = profile_list(device, new_id())
    await whole.api("POST", "/v1/commands", body)

    answer = await whole.api("POST", "/v1/commands", body | {"request_type": "CertificateList"})

    is_error(answer, 409, "command_uuid", body["command_uuid"])


async def test_a_cancelled_command_is_queued_anew(whole: Whole) -> None:
    device = await whole.enrolled()
    body = profile_list(device, new_id())
    await whole.api("POST", "/v1/commands", body)
    await whole.api("DELETE", f"/v1/commands/{device.id}")

    assert (await whole.api("POST", "/v1/commands", body)).status_code == 201
    assert given(await device.connect()) == body["command_uuid"]


async def test_one_uuid_serves_two_devices(whole: Whole) -> None:
    command_uuid = new_id()
    devices = [await whole.enrolled() for _ in range(2)]

    for device in devices:
        await device.queue(command_uuid)

    assert [given(await device.connect()) for device in devices] == [command_uuid] * 2


# --- raw property lists ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_raw_plist_is_delivered_byte_for_byte(whole: Whole, method: str) -> None:
    device = await whole.enrolled()
    command_uuid = new_id()
    plist = f"""<?xml version="1.0" encoding="UTF-8"?>
    <plist version="1.0"><dict>  <!-- as it is -->
    <key>Command</key><dict><key>RequestType</key><string>OfTomorrow</string></dict>
    <key>CommandUUID</key><string>{command_uuid}</string></dict></plist>""".encode()

    answer = await whole.api(method, f"/v1/commands/{device.id}", plist)

    payload = {
        "udid": device.id,
        "command_uuid": command_uuid,
        "command": {"request_type": "OfTomorrow"},
        "payload": base64.b64encode(plist).decode(),
    }
    is_answer(answer, 201, {"payload": payload})
    assert (await device.connect()).content == plist


RAW: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "plist"),
    "no plist": (b"hello", "plist"),
    "no CommandUUID": (plistlib.dumps({"Command": {"RequestType": "X"}}), "CommandUUID"),
    "no Command": (plistlib.dumps({"CommandUUID": "x"}), "Command"),
    "no RequestType": (plistlib.dumps({"CommandUUID": "x", "Command": {}}), "RequestType"),
    "a RequestType that is a number": (
        plistlib.dumps({"CommandUUID": "x", "Command": {"RequestType": 1}}),
        "RequestType",
    ),
}


@pytest.mark.parametrize(("plist", "word"), RAW.values(), ids=RAW.keys())
async def test_an_unusable_raw_plist_is_400_and_nothing_is_invented(
    whole: Whole, plist: bytes, word: str
) -> None:
    device = await whole.enrolled()

    is_error(await whole.api("POST", f"/v1/commands/{device.id}", plist), 400, word)
    assert await device.open_commands() == []


# --- queues ------------------------------------------------------------------------------------------


async def test_the_queue_shows_all_open_commands_in_order(whole: Whole) -> None:
    device = await whole.enrolled()
    commands = [await device.queue() for _ in range(3)]
    await device.connect()
    await device.connect("NotNow", CommandUUID=commands[0])

    answer = await whole.api("GET", f"/v1/commands/{device.id}")

    found = answer.json()["commands"]
    assert [command["uuid"] for command in found] == commands
    plist = plistlib.loads(base64.b64decode(found[0]["payload"]))
    assert plist == {"CommandUUID": commands[0], "Command": {"RequestType": "ProfileList"}}
    assert found[0].keys() == {"uuid", "payload"}


async def test_an_empty_or_unknown_queue_is_an_empty_object(whole: Whole) -> None:
    device = await whole.enrolled()

    for name in (device.id, new_id()):
        is_answer(await whole.api("GET", f"/v1/commands/{name}"), 200, {})
        is_answer(await whole.api("DELETE", f"/v1/commands/{name}"), 200, {})


async def test_clearing_ends_what_was_handed_out_too(whole: Whole) -> None:
    device = await whole.enrolled()
    await device.queue(), await device.queue()
    marked_sent = given(await device.connect())

    is_answer(await whole.api("DELETE", f"/v1/commands/{device.id}"), 200, {})

    assert await device.open_commands() == []
    assert given(await device.connect("Acknowledged", CommandUUID=marked_sent)) is None


# --- pushes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", "/push"), ("POST", "/v1/push")])
async def test_a_push_answers_with_the_id_that_apns_gave(
    whole: Whole, method: str, path: str
) -> None:
    device = await whole.enrolled()

    answer = await whole.api(method, f"{path}/{device.id}?expiration=1900000000")

    push_id = answer.json()["push_notification_id"]
    is_answer(answer, 200, {"status": "success", "push_notification_id": push_id})
    [push] = [push for push in whole.apns.pushes if push.token == device.token]
    assert (push.body, push.headers["apns-expiration"]) == (
        {"mdm": f"magic-{device.id}"},
        "1900000000",
    )


async def test_a_push_that_cannot_be_made_says_why_in_this_order(whole: Whole) -> None:
    device = whole.device()

    is_error(await whole.api("GET", f"/push/{device.id}"), 404, device.id)
    await device.authenticate()
    is_error(await whole.api("GET", f"/push/{device.id}"), 409)
    await device.token_update(Topic="com.apple.mgmt.External.of-nobody")
    is_error(await whole.api("GET", f"/push/{device.id}"), 503, "push certificate")
    await device.token_update()
    whole.apns.answers(device.token, reason(400, "BadDeviceToken"))
    is_error(await whole.api("GET", f"/push/{device.id}"), 502, "BadDeviceToken")
    is_error(await whole.api("GET", f"/push/{device.id}?expiration=soon"), 400, "expiration")


# --- devices -----------------------------------------------------------------------------------------


async def devices(whole: Whole, body: object) -> list[dict[str, Any]]:
    answer = await whole.api("POST", "/v1/devices", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == JSON
    return list(answer.json()["devices"])


async def test_a_device_is_listed_with_micromdms_keys_from_authenticate_on(whole: Whole) -> None:
    device = whole.device()
    await device.authenticate(SerialNumber="SERIAL-1")

    [found] = await devices(whole, {"filter_udid": [device.id]})

    ours = {name: value for name, value in found.items() if name not in MDM_KEYS}
    assert set(list(found)[: len(MDM_KEYS)]) == MDM_KEYS  # MicroMDM's come first
    assert ours["status"] == "authenticated"
    assert {name: found[name] for name in MDM_KEYS} | {"last_seen": ""} == {
        "serial_number": "SERIAL-1",
        "udid": device.id,
        "enrollment_status": False,
        "last_seen": "",
        "dep_profile_status": "",
    }
    assert re.match(r"\d{4}-\d\d-\d\dT", found["last_seen"])


async def test_a_user_enrollment_is_listed_with_its_enrollment_id(whole: Whole) -> None:
    device = await whole.enrolled(EnrollmentID=new_id())

    found = [each for each in await devices(whole, None) if each.get("enrollment_id") == device.id]

    assert [each["udid"] for each in found] == [""]


async def test_user_channels_are_not_listed(whole: Whole) -> None:
    device = await whole.enrolled()
    before = len(await devices(whole, None))

    await device.user(UserID=new_id()).token_update()

    assert len(await devices(whole, None)) == before


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"page": 0, "per_page": 0, "filter_serial": None},
        {"per_page": None},
        {"filter_serial": []},
        {"unknown": 1},
    ],
)
async def test_all_devices_are_listed_unless_asked_otherwise(whole: Whole, body: object) -> None:
    device = await whole.enrolled()

    assert device.id in {each["udid"] for each in await devices(whole, body)}


async def test_devices_are_found_by_serial_number_and_udid_and_come_in_pages(whole: Whole) -> None:
    fleet = [whole.device() for _ in range(3)]
    serials = [new_id()[:12] for _ in fleet]
    for device, serial in zip(fleet, serials, strict=True):
        await device.authenticate(SerialNumber=serial)
    udids = [device.id for device in fleet]

    by_serial = await devices(whole, {"filter_serial": serials[:2]})
    pages = [
        await devices(whole, {"FILTER_UDID": udids, "page": page, "per_page": 2})
        for page in range(3)
    ]

    assert {each["udid"] for each in by_serial} == set(udids[:2])
    assert [len(page) for page in pages] == [2, 1, 0]
    assert {each["udid"] for page in pages for each in page} == set(udids)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"page": -1}, "page"),
        ({"per_page": "2"}, "per_page"),
        ({"filter_udid": "x"}, "filter_udid"),
        ({"filter_serial": [1]}, "filter_serial[0]"),
        (b"{", "JSON"),
    ],
)
async def test_an_unusable_query_is_400_and_names_the_field(
    whole: Whole, body: object, word: str
) -> None:
    is_error(await whole.api("POST", "/v1/devices", body), 400, word)


@pytest.mark.parametrize("wrapped", [True, False], ids=["Opts", "flat"])
@pytest.mark.parametrize("by", ["udids", "serials"])
async def test_devices_are_removed_with_their_commands(
    whole: Whole, wrapped: bool, by: str
) -> None:
    device = await whole.enrolled()
    await device.queue()
    names = {by: [device.id if by == "udids" else f"S{device.id[:10]}"]}

    answer = await whole.api("DELETE", "/v1/devices", {"Opts": names} if wrapped else names)

    is_answer(answer, 200, {})
    assert await devices(whole, {"filter_udid": [device.id]}) == []
    assert await device.open_commands() == []
    body = {"udid": device.id, "request_type": "ProfileList"}
    is_error(await whole.api("POST", "/v1/commands", body), 404)
    is_error(await whole.api("GET", f"/push/{device.id}"), 404)


async def test_removing_whom_nobody_knows_removes_nobody(whole: Whole) -> None:
    before = len(await devices(whole, None))

    is_answer(await whole.api("DELETE", "/v1/devices", {"Opts": {"udids": [new_id()]}}), 200, {})
    is_answer(await whole.api("DELETE", "/v1/devices"), 200, {})

    assert len(await devices(whole, None)) == before


@pytest.mark.parametrize("action", ["block", "unblock"])
async def test_blocking_answers_empty_and_404_for_an_unknown_device(
    whole: Whole, action: str
) -> None:
    device = await whole.enrolled()

    is_answer(await whole.api("POST", f"/v1/devices/{device.id}/{action}"), 200, {})
    is_error(await whole.api("POST", f"/v1/devices/{new_id()}/{action}"), 404)
