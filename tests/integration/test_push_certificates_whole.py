"""Push certificates by API in a whole server: profiles, devices and pushes follow, nothing of a key shows."""

import asyncio
import base64
import json
import plistlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from shared.security.push_certificate import read_pair
from tests.integration.whole import TOPIC, Whole, whole_server

ONE = "/v1/config/certificate"
OTHER = "com.apple.mgmt.External.other"
NO_FILES = {"MDM_PUSH_CERT": "", "MDM_PUSH_KEY": ""}


@pytest_asyncio.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Whole]:
    """A server without any push certificate."""
    async with whole_server(tmp_path, NO_FILES) as found:
        yield found


def body_of(whole: Whole, topic: str) -> dict[str, str]:
    files = whole.apns.authority.issue(topic, name=f"by-api-{topic}")
    return {
        "cert": base64.b64encode(files.certificate.read_bytes()).decode(),
        "key": base64.b64encode(files.key.read_bytes()).decode(),
    }


async def topic_of_profile(whole: Whole) -> str:
    profile = plistlib.loads((await whole.http.get(whole.url_of("/mdm/enroll"))).content)
    [mdm] = [p for p in profile["PayloadContent"] if p["PayloadType"] == "com.apple.mdm"]
    return str(mdm["Topic"])


async def until_profiles_name(whole: Whole, topic: str) -> None:
    async with asyncio.timeout(15):
        while await topic_of_profile(whole) != topic:
            await asyncio.sleep(0.1)


async def test_profiles_and_pushes_follow_what_is_installed_while_the_server_runs(
    bare: Whole,
) -> None:
    assert await topic_of_profile(bare) == ""
    assert (await bare.api("GET", ONE)).status_code == 404

    assert (await bare.api("PUT", ONE, body_of(bare, TOPIC))).json() == {}
    await until_profiles_name(bare, TOPIC)
    device = await bare.enrolled()
    await device.queue()

    await bare.pushed(device.token)


async def test_a_certificate_of_another_topic_is_refused_until_it_is_named(bare: Whole) -> None:
    await bare.api("PUT", ONE, body_of(bare, TOPIC))
    await bare.enrolled()
    other = body_of(bare, OTHER)

    refused = await bare.api("PUT", ONE, other)
    still = await topic_of_profile(bare)
    forced = await bare.api("PUT", f"{ONE}?force_topic={OTHER}", other)
    await until_profiles_name(bare, OTHER)

    assert refused.status_code == 409
    assert "1 devices are enrolled" in refused.json()["error"]
    assert still == TOPIC
    assert forced.status_code == 200
    [audited] = [
        entry
        for entry in (await bare.api("GET", "/v1/audit")).json()["entries"]
        if entry["action"] == "push_certificate.install" and entry["status"] == 409
    ]
    assert audited["targets"] == [OTHER]


async def test_neither_logs_nor_metrics_nor_refusals_show_a_key(bare: Whole) -> None:
    good, other = body_of(bare, TOPIC), body_of(bare, OTHER)
    password = "a-password-that-nobody-may-see"
    bodies = [
        good | {"cert": other["cert"]},
        good | {"password": password},
        {**good, "key": good["key"][:-8], "password": password},
        {"key": good["key"]},
        json.dumps(good).encode()[:-1],
    ]

    answers = [await bare.api("PUT", ONE, body) for body in bodies]

    assert [answer.status_code for answer in answers] == [400, 200, 400, 400, 400]
    assert await asyncio.to_thread(bare.process.terminate) == 0
    said = bare.process.output() + "".join(answer.text for answer in answers)
    pair = read_pair(base64.b64decode(good["cert"]), base64.b64decode(good["key"]))
    assert "push_certificate_in_use" in said
    assert pair.topic in said
    for secret in (password, good["key"][40:80], *pair.key_pem.decode().splitlines()[1:-1]):
        assert secret not in said
