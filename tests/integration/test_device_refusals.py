"""What devices are refused, over HTTP: 400, an empty body, nothing changed, no event; counted in the log."""

import asyncio
import base64
import plistlib
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.integration.whole import TOPIC, Device, Whole, given, new_id
from tests.support.harness.http1 import Connection, request_bytes
from tests.support.harness.identities import (
    AUTHORITY,
    DeviceIdentity,
    FleetAuthority,
    Profile,
    envelope,
    indefinite,
    signer_info,
    valid_for,
)
from tests.unit.shared.apple.plist.test_plist import REFUSED

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 10 * 1024**2
"""MDM_MAX_BODY, by default."""
HARMFUL = {name: body for name, body in REFUSED.items() if len(body) <= LIMIT}
BOUND = 5.0
"""Seconds; each takes some milliseconds on a machine at rest."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def device(whole: Whole) -> AsyncIterator[Device]:
    """Enrolled, with one command waiting."""
    device = await whole.enrolled()
    await device.queue()
    yield device


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(whole: Whole) -> AsyncIterator[Device]:
    yield await whole.enrolled()


async def state(device: Device) -> dict[str, Any]:
    """All that API clients and the device itself can see of it, but for what a loop writes every 5 seconds:
    when it was seen, and the quarantine that a strange certificate of an earlier test leads to."""
    listed = await device.whole.api("POST", "/v1/devices", {"filter_udid": [device.id]})
    [found] = listed.json()["devices"]
    later = {"last_seen": "", "quarantine": None}
    return {**found, **later, "open": await device.open_commands()}


async def refused(
    device: Device, request: Callable[[], Awaitable[httpx.Response]], reason: str
) -> None:
    """Make the request; it must be refused, for this reason, and leave nothing behind."""
    whole = device.whole
    before, journaled = await state(device), whole.journaled()
    counted = _counted(whole)
    began = time.monotonic()

    answer = await request()

    assert time.monotonic() - began < BOUND
    assert (answer.status_code, answer.content) == (400, b"")
    assert whole.journaled() == journaled
    after = await state(device)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert {name: (before.get(name), after.get(name)) for name in changed} == {}
    assert {
        name: n - counted[name] for name, n in _counted(whole).items() if n > counted[name]
    } == {reason: 1}


def _counted(whole: Whole) -> dict[str, float]:
    name = 'macromdm_requests_refused_total{reason="'
    lines = [line for line in whole.process.metrics().splitlines() if line.startswith(name)]
    return {line.removeprefix(name).split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


# --- messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", HARMFUL.values(), ids=HARMFUL.keys())
@pytest.mark.parametrize("path", ["/mdm/checkin", "/mdm/connect"])
async def test_a_signed_body_that_is_no_harmless_plist_is_refused_soon(
    device: Device, path: str, body: bytes
) -> None:
    await refused(device, lambda: device.send(path, body), "plist")


CHECKINS: dict[str, dict[str, Any]] = {
    "no type": {},
    "an unknown type": {"MessageType": "Hello"},
    "a type that is a number": {"MessageType": 1},
    "a token update without a token": {"MessageType": "TokenUpdate", "Topic": TOPIC},
    "a token that is text": {"MessageType": "TokenUpdate", "Token": "x", "PushMagic": "m"},
    "no magic": {"MessageType": "TokenUpdate", "Token": b"x"},
    "a user's Authenticate": {"MessageType": "Authenticate", "UserID": new_id()},
    "a bootstrap token that is text": {
        "MessageType": "SetBootstrapToken",
        "BootstrapToken": "x",
    },
}


@pytest.mark.parametrize("keys", CHECKINS.values(), ids=CHECKINS.keys())
async def test_an_unusable_checkin_is_refused(device: Device, keys: dict[str, Any]) -> None:
    body = plistlib.dumps({**device.ids, **keys})

    await refused(device, lambda: device.send("/mdm/checkin", body), "plist")


@pytest.mark.parametrize("path", ["/mdm", "/checkin"])
@pytest.mark.parametrize("keys", [{}, {"MessageType": "CheckOut", "Status": "Idle"}])
async def test_a_message_of_both_kinds_or_of_none_is_refused_once_its_signature_was_judged(
    device: Device, path: str, keys: dict[str, str]
) -> None:
    body = plistlib.dumps({**device.ids, **keys})

    await refused(device, lambda: device.send(path, body), "plist")
    await refused(device, lambda: device.send(path, body, signature=""), "signature")


CONNECTS: dict[str, dict[str, Any]] = {
    "no status": {},
    "an unknown status": {"Status": "Busy"},
    "Acknowledged without a CommandUUID": {"Status": "Acknowledged"},
    "a CommandUUID that is a number": {"Status": "Acknowledged", "CommandUUID": 1},
}


@pytest.mark.parametrize("keys", CONNECTS.values(), ids=CONNECTS.keys())
async def test_an_unusable_connect_is_refused(device: Device, keys: dict[str, Any]) -> None:
    body = plistlib.dumps({**device.ids, **keys})

    await refused(device, lambda: device.send("/mdm/connect", body), "plist")


@pytest.mark.parametrize("path", ["/mdm/checkin", "/mdm/connect"])
async def test_a_message_of_nobody_is_refused(device: Device, path: str) -> None:
    body = plistlib.dumps({"MessageType": "CheckOut", "Status": "Idle"})

    await refused(device, lambda: device.send(path, body), "plist")


@pytest.mark.parametrize("message_type", ["DeclarativeManagement", "GetToken"])
async def test_what_is_not_served_yet_is_refused(device: Device, message_type: str) -> None:
    await refused(device, lambda: device.checkin(message_type, Endpoint="tokens"), "message")


@pytest.mark.parametrize("body", ["UTF-16", "a BOM", "a key of a megabyte"])
async def test_unusual_but_harmless_bytes_reach_the_subscriber_unchanged(
    whole: Whole, body: str
) -> None:
    device = await whole.enrolled()
    text = plistlib.dumps({"Status": "Idle", **device.ids}).decode()
    sent = {
        "UTF-16": text.replace("UTF-8", "UTF-16").encode("utf-16"),
        "a BOM": text.encode("utf-8-sig"),
        "a key of a megabyte": plistlib.dumps(
            {"Status": "Idle", **device.ids, "k" * 1_000_000: True}
        ),
    }[body]

    answer = await device.send("/mdm/connect", sent)

    assert answer.status_code == 200
    event = (await whole.events_of(device.id, 3))[2]["acknowledge_event"]
    assert base64.b64decode(event["raw_payload"]) == sent


# --- signatures --------------------------------------------------------------------------------------


def idle(device: Device) -> bytes:
    return plistlib.dumps({"Status": "Idle", **device.ids})


SIGNATURES: dict[str, Callable[[DeviceIdentity, bytes], str]] = {
    "none": lambda identity, body: "",
    "no base64": lambda identity, body: "%%%",
    "no CMS": lambda identity, body: base64.b64encode(b"hello").decode(),
    "of another body": lambda identity, body: identity.sign(body + b"\n"),
    "without a signer": lambda identity, body: base64.b64encode(envelope([], [identity])).decode(),
    "of two signers": lambda identity, body: base64.b64encode(
        envelope([signer_info(identity, body, "sha256")] * 2, [identity])
    ).decode(),
    "without its certificate": lambda identity, body: base64.b64encode(
        envelope([signer_info(identity, body, "sha256")], [])
    ).decode(),
}


@pytest.mark.parametrize("sign", SIGNATURES.values(), ids=SIGNATURES.keys())
async def test_a_bad_signature_is_refused(
    device: Device, sign: Callable[[DeviceIdentity, bytes], str]
) -> None:
    signature = sign(device.identity, idle(device))

    await refused(
        device, lambda: device.send("/mdm/connect", idle(device), signature=signature), "signature"
    )


async def test_two_signatures_are_refused(whole: Whole, device: Device) -> None:
    line = f"mdm-signature: {device.identity.sign(idle(device))}\r\n"

    async def twice() -> httpx.Response:
        async with Connection("127.0.0.1", whole.process.port) as connection:
            request = request_bytes("PUT", "/mdm/connect", line * 2, idle(device))
            answer = await connection.send(request)
        return httpx.Response(answer.status, content=answer.body)

    await refused(device, twice, "signature")


@pytest.mark.parametrize("form", [[], ["-indef"], ["-keyid"]], ids=["DER", "indefinite", "keyid"])
async def test_what_openssl_signs_as_devices_do_is_accepted(
    device: Device, tmp_path: Path, form: list[str]
) -> None:
    for name, content in (
        ("key.pem", device.identity.key_pem),
        ("cert.pem", device.identity.pem),
        ("body", idle(device)),
    ):
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "cms", "-sign", "-binary", "-noattr", "-md", "sha1", "-outform", "DER"]
    command += ["-signer", "cert.pem", "-inkey", "key.pem", "-in", "body", *form]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, check=True, timeout=30
    )
    signature = base64.b64encode(done.stdout).decode()

    answer = await device.send("/mdm/connect", idle(device), signature=signature)

    assert given(answer) is not None


async def test_indefinite_lengths_are_accepted(device: Device) -> None:
    signature = base64.b64encode(indefinite(device.identity.cms(idle(device)))).decode()

    answer = await device.send("/mdm/connect", idle(device), signature=signature)

    assert given(answer) is not None


# --- certificates ------------------------------------------------------------------------------------


NOW = datetime.now(UTC)
CERTIFICATES: dict[str, Callable[[FleetAuthority], DeviceIdentity]] = {
    "of a stranger's CA": lambda authority: FleetAuthority().issue(),
    "of a stranger's CA with our CA's name": lambda authority: FleetAuthority("Fleet CA").issue(),
    "expired": lambda authority: authority.issue(
        profile=valid_for(timedelta(days=1), start=NOW - timedelta(days=9))
    ),
    "not valid yet": lambda authority: authority.issue(
        profile=valid_for(timedelta(days=9), start=NOW + timedelta(days=1))
    ),
    "for a server": lambda authority: authority.issue(
        profile=Profile(usage=[ExtendedKeyUsageOID.SERVER_AUTH])
    ),
    "of a CA below ours": lambda authority: authority.issue(profile=AUTHORITY),
    "of our CA itself": lambda authority: authority.identity,
}


@pytest.mark.parametrize("make", CERTIFICATES.values(), ids=CERTIFICATES.keys())
@pytest.mark.parametrize("message_type", ["Authenticate", "CheckOut"])
async def test_a_certificate_that_proves_nothing_is_refused(
    whole: Whole,
    device: Device,
    message_type: str,
    make: Callable[[FleetAuthority], DeviceIdentity],
) -> None:
    stranger = Device(whole, make(whole.authority), device.ids)

    await refused(device, lambda: stranger.checkin(message_type, Topic=TOPIC), "certificate")


@pytest.mark.parametrize(
    "message_type", ["Authenticate", "TokenUpdate", "CheckOut", "SetBootstrapToken"]
)
async def test_another_devices_certificate_is_refused_at_checkin(
    whole: Whole, device: Device, other: Device, message_type: str
) -> None:
    thief = Device(whole, other.identity, device.ids)
    keys: dict[str, Any] = {"Topic": TOPIC, "Token": b"stolen", "PushMagic": "m"}

    await refused(device, lambda: thief.checkin(message_type, **keys), "binding")


@pytest.mark.parametrize("status", ["Idle", "Acknowledged"])
async def test_another_devices_certificate_is_refused_at_connect(
    whole: Whole, device: Device, other: Device, status: str
) -> None:
    thief = Device(whole, other.identity, device.ids)
    [command] = await device.open_commands()

    await refused(device, lambda: thief.connect(status, CommandUUID=command), "binding")


async def test_a_user_channel_is_its_devices_alone(
    whole: Whole, device: Device, other: Device
) -> None:
    thief = Device(whole, other.identity, device.ids | {"UserID": new_id()})

    await refused(device, lambda: thief.connect(), "binding")


@pytest.mark.parametrize("user", [{}, {"UserID": new_id()}], ids=["device", "user"])
async def test_a_device_that_never_authenticated_is_refused(
    whole: Whole, device: Device, user: dict[str, str]
) -> None:
    unknown = whole.device(UDID=new_id(), **user)

    await refused(device, lambda: unknown.connect(), "unknown_device")
    await refused(device, lambda: unknown.token_update(), "unknown_device")


# --- paths and sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mdm/checkin", "/mdm/connect", "/mdm", "/checkin"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH"])
async def test_a_wrong_method_is_405_in_json(whole: Whole, path: str, method: str) -> None:
    answer = await whole.api(method, path)

    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["error"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/", "/mdm/", "/mdm/other", "/mdm/checkin/more", "/checkin/more"])
async def test_an_unknown_path_is_404_in_json(whole: Whole, path: str) -> None:
    answer = await whole.http.put(whole.process.url + path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["error"] == f"there is no route PUT {path}; GET /docs shows all"


@pytest.mark.parametrize(
    "path", ["/v1/dep/devices", "/v1/apps", "/v1/users", "/v1/blueprints", "/repo/x"]
)
async def test_a_route_of_micromdm_that_is_not_here_is_said_to_be_that(
    whole: Whole, path: str
) -> None:
    answer = await whole.api("GET", path)

    assert answer.status_code == 404
    assert answer.json()["error"].startswith(f"this version has not MicroMDM's route {path}")


async def test_405_names_every_method_of_the_path(whole: Whole) -> None:
    allowed = {
        path: (await whole.api("PATCH", path)).headers["allow"]
        for path in ("/v1/devices", "/v1/commands/X", "/mdm/connect", "/version")
    }

    assert allowed == {
        "/v1/devices": "DELETE, GET, POST",
        "/v1/commands/X": "DELETE, GET, POST, PUT",
        "/mdm/connect": "PUT",
        "/version": "GET",
    }


async def test_a_body_over_the_limit_is_413_without_a_body(device: Device) -> None:
    journaled = device.whole.journaled()

    answer = await device.send("/mdm/connect", b" " * (LIMIT + 1))

    assert (answer.status_code, answer.content) == (413, b"")
    assert device.whole.journaled() == journaled


async def test_a_body_of_the_limit_is_served(whole: Whole) -> None:
    device = await whole.enrolled()
    room = LIMIT - len(plistlib.dumps({"Status": "Idle", **device.ids, "Pad": ""}))
    body = plistlib.dumps({"Status": "Idle", **device.ids, "Pad": "x" * room})
    assert len(body) == LIMIT

    answer = await device.send("/mdm/connect", body)

    assert answer.status_code == 200
    event = (await whole.events_of(device.id, 3))[2]["acknowledge_event"]
    assert base64.b64decode(event["raw_payload"]) == body


async def test_the_log_counts_every_refusal(whole: Whole) -> None:
    """The last of this module: it ends the process."""
    counted = sum(_counted(whole).values())

    assert whole.process.terminate() == 0

    lines = whole.log_lines("device_refused")
    assert sum(line["count"] for line in lines) == counted > 100
    assert {line["status"] for line in lines} <= {400, 413}
    assert all(line["reason"] for line in lines)
    assert len([line for line in lines if "device" in line]) < counted / 10
