"""Events of ours over separate services: what one finds out reaches a subscriber by the real broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.whole import TOPIC, Whole
from tests.support.harness.apns import reason, running
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.loopback_program import LoopbackProcess
from tests.support.harness.sink import OK, Behaviour, Sink
from tests.support.harness.system import ServiceProcess

PATIENCE = 60.0
FOLLOWED = 2.0


@dataclass
class Separate(Whole):
    """Four processes in the place of one."""

    services: Mapping[str, ServiceProcess] = field(default_factory=dict)

    def url_of(self, path: str) -> str:
        name = "webhook" if path.startswith("/v1/webhooks") else "commands"
        return self.services["checkin" if path.startswith("/mdm") else name].url + path

    async def subscribed(self, sink: Sink, *topics: str) -> str:
        body = {"name": topics[0], "url": sink.url, "topics": topics}
        answer = await self.api("POST", "/v1/webhooks", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def told(self, topic: str) -> dict[str, Any]:
        """The event of this topic, once it came."""
        async with asyncio.timeout(PATIENCE):
            while not (found := [e for a in self.sink.taken if (e := a.event)["topic"] == topic]):
                await asyncio.sleep(0.05)
        return dict(found[0])


@pytest.fixture
async def separate(tmp_path: Path, mongodb_url: str, amqp_url: str) -> AsyncIterator[Separate]:
    authority = FleetAuthority()
    (tmp_path / "device-ca.pem").write_bytes(authority.pem)
    async with AsyncExitStack() as stack:
        apns = await stack.enter_async_context(running(tmp_path / "apns"))
        sink = await stack.enter_async_context(Sink())
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        pair = apns.certificate(TOPIC)
        settings = {
            "MDM_MONGODB_URL": mongodb_url,
            "MDM_AMQP_URL": amqp_url,
            "MDM_DEVICE_CA": str(tmp_path / "device-ca.pem"),
            "MDM_APNS_URL": apns.url,
            "MDM_APNS_CA": str(apns.authority.ca_file),
            "MDM_PUSH_CERT": str(pair.certificate),
            "MDM_PUSH_KEY": str(pair.key),
        }
        services = {
            name: LoopbackProcess(name, tmp_path / name, settings)
            for name in ("webhook", "push", "commands", "checkin")
        }
        for process in services.values():
            stack.callback(process.close)
        await asyncio.gather(*(asyncio.to_thread(each.start) for each in services.values()))
        yield Separate(services["checkin"], sink, apns, authority, http, services=services)


def refuse_first(sink: Sink, topic: str) -> list[str]:
    """Answer the first event of this topic with 500; the ids of those answered so."""
    refused: list[str] = []

    def answer(event: dict[str, Any]) -> Behaviour:
        if event["topic"] != topic or refused:
            return OK
        refused.append(event["event_id"])
        return Behaviour(status=500)

    sink.script = answer
    return refused


async def test_a_dead_token_and_a_disabled_webhook_are_told_to_a_subscriber(
    separate: Separate,
) -> None:
    async with Sink() as gone:
        gone.behaviour = Behaviour(status=410)
        await separate.subscribed(
            separate.sink, "macromdm.PushTokenInvalid", "macromdm.WebhookDisabled"
        )
        disabled = await separate.subscribed(gone, "mdm.*")
        await asyncio.sleep(FOLLOWED)
        refused = refuse_first(separate.sink, "macromdm.WebhookDisabled")
        device = await separate.enrolled()
        stamp = round((time.time() + 1) * 1000)
        separate.apns.answers(device.token, reason(410, "Unregistered", timestamp=stamp))
        await device.queue()
        invalid = await separate.told("macromdm.PushTokenInvalid")
        told = await separate.told("macromdm.WebhookDisabled")
        state = (await separate.api("GET", f"/v1/webhooks/{disabled}")).json()["state"]

    assert invalid["device_event"]["udid"] == device.id
    assert refused == [told["event_id"]]
    assert told["webhook_event"] == {
        "version": 1,
        "webhook": disabled,
        "name": "mdm.*",
        "reason": "answered 410",
    }
    assert state == "disabled"
    assert {each.event["topic"] for each in separate.sink.taken} == {
        "macromdm.PushTokenInvalid",
        "macromdm.WebhookDisabled",
    }
