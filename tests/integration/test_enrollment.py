"""Enrollment over HTTP: what a device and its operator meet on the whole server."""

import base64
import plistlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.whole import TOPIC, Whole, whole_server
from tests.support.harness.identities import FleetAuthority, envelope, signer_info

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER_URL = "https://mdm.example.com"
ENROLL = "com.github.micromdm.micromdm.enroll"
APPLE = FleetAuthority("Apple iPhone Device CA")
SIGNING = FleetAuthority("Profiles Root")
PROFILE = plistlib.dumps({"PayloadType": "Configuration", "PayloadIdentifier": ENROLL})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """A server that signs its profiles, and knows Apple's CA."""
    folder = tmp_path_factory.mktemp("enrollment")
    identity = SIGNING.issue("profiles")
    (folder / "profiles.pem").write_bytes(identity.pem + SIGNING.pem)
    (folder / "profiles.key").write_bytes(identity.key_pem)
    (folder / "apple.pem").write_bytes(APPLE.pem)
    (folder / "root.pem").write_bytes(SIGNING.pem)
    settings = {
        "MDM_SERVER_URL": SERVER_URL,
        "MDM_ORGANIZATION": "Zürich & Co",
        "MDM_PROFILE_NAME": "Work",
        "MDM_PROFILE_CERT": str(folder / "profiles.pem"),
        "MDM_PROFILE_KEY": str(folder / "profiles.key"),
        "MDM_PROFILE_CA": str(folder / "root.pem"),
        "MDM_OTA_DEVICE_CA": str(folder / "apple.pem"),
    }
    async with whole_server(folder, settings) as found:
        yield found


async def fetched(whole: Whole, path: str, content: bytes | None = None) -> bytes:
    """The profile as it came."""
    method = "GET" if content is None else "POST"
    answer = await whole.http.request(method, whole.url_of(path), content=content)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-apple-aspen-config"
    return answer.content


def verified(signed: bytes, folder: Path) -> dict[str, Any]:
    """What a signed profile holds; openssl verifies it up to the root."""
    (folder / "signed").write_bytes(signed)
    (folder / "root.pem").write_bytes(SIGNING.pem)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any"]
    command += ["-in", str(folder / "signed"), "-CAfile", str(folder / "root.pem")]
    opened = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    return dict(plistlib.loads(opened))


async def test_the_profile_names_this_server_and_the_topic_of_its_push_certificate(
    server: Whole, tmp_path: Path
) -> None:
    profile = verified(await fetched(server, "/mdm/enroll?site=a%20b"), tmp_path)

    scep, mdm, root = profile["PayloadContent"]
    assert profile["PayloadDisplayName"] == "Work"
    assert profile["PayloadOrganization"] == "Zürich & Co"
    assert profile["PayloadIdentifier"] == ENROLL
    assert scep["PayloadContent"]["URL"] == f"{SERVER_URL}/scep"
    assert scep["PayloadContent"]["Subject"][0] == [["O", "Zürich & Co"]]
    assert mdm["CheckInURL"] == f"{SERVER_URL}/mdm/checkin?site=a%20b"
    assert mdm["ServerURL"] == f"{SERVER_URL}/mdm/connect?site=a%20b"
    assert mdm["Topic"] == TOPIC
    assert root["PayloadContent"] == SIGNING.identity.der


async def test_parameters_of_the_profile_come_back_in_the_devices_events(whole: Whole) -> None:
    profile = plistlib.loads(await fetched(whole, "/mdm/enroll?site=Z%C3%BCrich%20%26%20co"))
    mdm = profile["PayloadContent"][1]
    query = mdm["CheckInURL"].partition("?")[2]
    device = whole.device()

    answer = await device.authenticate(query=f"?{query}")

    assert answer.status_code == 200
    [event] = await whole.events_of(device.id, 1)
    assert event["checkin_event"]["url_params"] == {"site": "Zürich & co"}


async def test_two_profiles_share_no_challenge_and_no_uuid(whole: Whole) -> None:
    profiles = [plistlib.loads(await fetched(whole, "/mdm/enroll")) for _ in range(2)]

    challenges = {p["PayloadContent"][0]["PayloadContent"]["Challenge"] for p in profiles}
    assert len(challenges) == 2
    assert len({p["PayloadUUID"] for p in profiles}) == 2


async def test_a_device_goes_through_both_phases_over_the_air(
    server: Whole, tmp_path: Path
) -> None:
    first = verified(await fetched(server, "/ota/enroll?site=a"), tmp_path)
    assert first["PayloadContent"]["URL"] == f"{SERVER_URL}/ota/phase23?site=a"
    said = {"UDID": "OTA-1", "SERIAL": "C02", "CHALLENGE": first["PayloadContent"]["Challenge"]}
    made_by_apple, ours = APPLE.issue(), server.authority.issue()

    second = verified(
        await fetched(server, "/ota/phase23?site=a", signed(made_by_apple, said)), tmp_path
    )
    third = verified(await fetched(server, "/ota/phase23?site=a", signed(ours, said)), tmp_path)

    assert [p["PayloadType"] for p in second["PayloadContent"]] == ["com.apple.security.scep"]
    assert third["PayloadIdentifier"] == ENROLL
    assert third["PayloadContent"][1]["ServerURL"] == f"{SERVER_URL}/mdm/connect?site=a"


async def test_a_stranger_gets_nothing_over_the_air_but_400(server: Whole, tmp_path: Path) -> None:
    first = verified(await fetched(server, "/ota/enroll"), tmp_path)
    said = {"UDID": "OTA-2", "CHALLENGE": first["PayloadContent"]["Challenge"]}
    body = signed(FleetAuthority("Stranger").issue(), said)

    answer = await server.http.post(server.url_of("/ota/phase23"), content=body)

    assert (answer.status_code, answer.content) == (400, b"")
    assert await fetched(server, "/ota/phase23", signed(APPLE.issue(), said))


async def test_a_profile_that_the_operator_stored_is_served_until_it_is_deleted(
    whole: Whole,
) -> None:
    stored = {"profile": {"Identifier": ENROLL, "Mobileconfig": b64(PROFILE)}}

    assert (await whole.api("PUT", "/v1/profiles", stored)).json() == {}
    replaced = await fetched(whole, "/mdm/enroll")
    listed = await whole.api("POST", "/v1/profiles", {"id": ENROLL})
    assert (await whole.api("DELETE", "/v1/profiles", {"ids": [ENROLL]})).json() == {}
    ours = await fetched(whole, "/mdm/enroll")

    assert replaced == PROFILE
    assert listed.json() == {"profiles": [stored["profile"]]}
    assert len(plistlib.loads(ours)["PayloadContent"]) == 2
    assert (await whole.api("POST", "/v1/profiles", {})).json() == {"profiles": []}


def signed(identity: Any, said: dict[str, str]) -> bytes:
    content = plistlib.dumps(said)
    info = signer_info(identity, content, "sha256", attributes=True)
    return envelope([info], [identity], content=content)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
