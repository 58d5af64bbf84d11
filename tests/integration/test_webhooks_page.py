"""docs/webhooks.md: its commands work as written, and its tables name what is sent and no more."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from services.webhook.endpoints.request import EventBody, EventRequest
from services.webhook.endpoints.signing import RequestSigner
from shared.domain.event import EXTRA_TOPICS, OWN_PREFIX, TEST_TOPIC
from shared.domain.subscription import RequestSecrets, SigningSecret
from tests.integration.installation import ROOT, Installation
from tests.support.fakes.clock import START
from tests.support.harness.processes import free_port

PAGE = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


async def test_the_five_minutes_work_as_written(tmp_path: Path) -> None:
    """Other ports, and another place of Python, are all that differs."""
    installation = Installation(tmp_path / "data")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    blocks = re.findall(r"```sh\n(.*?)```", section("Five minutes"), re.S)
    async with installation.serving():
        ports = {":8080": f":{installation.port}", "9000": str(free_port())}
        script = "set -e; trap 'kill $(jobs -p)' EXIT\n" + "\n".join(blocks)
        for written, used in {**ports, ".venv/bin/python": sys.executable}.items():
            assert written in script or written == ":8080"
            script = script.replace(written, used)
        environ = {
            **os.environ,
            **installation.environ,
            "SERVER_URL": f"http://127.0.0.1:{installation.port}",
        }
        shell = await asyncio.create_subprocess_exec(
            "bash",
            *("-c", script),
            cwd=tmp_path,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            said, _ = await shell.communicate()

    assert shell.returncode == 0, said.decode()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines if line]
    received = [event for event in events if event["topic"].startswith("mdm.")]
    assert [event["topic"] for event in received] == ["mdm.Authenticate", "mdm.TokenUpdate"]
    assert received[0]["checkin_event"]["payload"]["MessageType"] == "Authenticate"
    assert "macromdm.DeviceEnrolled" in {event["topic"] for event in events}


def test_every_header_is_in_the_table() -> None:
    secrets = RequestSecrets(signing=(SigningSecret("whsec_c2VjcmV0"),), hmac_key="k")
    request = EventRequest((EventBody("e1", "mdm.Connect", b"{}"),), replay="r1")
    lines = RequestSigner(secrets).headers(request, b"{}", START).decode().splitlines()

    named = re.findall(r"^\| `([^`]+)`", section("Headers"), re.M)
    assert {line.partition(":")[0] for line in lines} | {"Authorization"} == set(named)


def test_every_key_of_an_event_is_in_the_table() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    keys = set(schemas["WebhookEvent"]["properties"])
    keys |= {"raw_payload", "payload", "payload_too_large", "redacted"}
    rows = re.findall(r"^\| (`[^|]+) \|", section("Events"), re.M)

    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == keys


def test_every_topic_of_ours_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", section("Topics"), re.M)
    named = [topic for row in rows for topic in re.findall(r"`(\w+)`", row)]

    assert sorted(OWN_PREFIX + name for name in named) == sorted([*EXTRA_TOPICS, TEST_TOPIC])
