"""No secret of a device stands in a store in clear, whatever goes right or wrong, and keys can be changed
beside a running server."""

import asyncio
import base64
import os
import plistlib
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.security.encryption import key_id
from tests.integration.stored import InFolder, InMongodb, Stored, count
from tests.integration.test_secrets_stay_secret import found_in
from tests.integration.whole import Device, Whole, whole_server
from tests.support.harness.sink import Behaviour, Kind, Script
from tests.support.harness.system import API_KEY, SECRET_KEY, deliveries_command

UNLOCK_TOKEN = secrets.token_bytes(64)
BOOTSTRAP_TOKEN = secrets.token_bytes(48)
MAGIC = f"magic-{secrets.token_hex(12)}"
COMMANDS_TOKEN = secrets.token_bytes(30)
"""In a ClearPasscode; so short that it stands in one line of a plist."""
SECRETS = {
    "unlock token of a command": COMMANDS_TOKEN,
    "unlock token": UNLOCK_TOKEN,
    "bootstrap token": BOOTSTRAP_TOKEN,
    "push magic": MAGIC.encode(),
    "key of the CA": b"PRIVATE KEY",
    "secret key": base64.b64decode(SECRET_KEY),
}
NEW_KEY = base64.b64encode(secrets.token_bytes(32)).decode()
VALUES = "[67]"
"""Of the CA, a device that told its secrets, and its events; and the latest answer, once it is noted."""
OLD_ID, NEW_ID = (key_id(base64.b64decode(key)) for key in (SECRET_KEY, NEW_KEY))
DEAD_LETTERED = "macromdm_deliveries_given_up_total"


@dataclass
class Stage:
    """A server on a store whose documents can be read raw."""

    whole: Whole
    store: Stored

    def clear(self) -> list[str]:
        """The secrets that stand in any document of any collection."""
        written = self.store.written()
        assert b"TokenUpdate" in written
        # a body that a subscriber would get is JSON, with the raw payload in base64 (found_in)
        return found_in(written, SECRETS)

    def deliveries(self, with_field: str) -> int:
        return count(self.store, "deliveries", lambda document: with_field in document)

    async def command(self, secret_key: str, *arguments: str, **settings: str) -> tuple[int, str]:
        """A process beside the server that ends by itself: its exit code, and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd()),
                "MDM_SECRET_KEY": secret_key,
                "MDM_API_KEY": API_KEY,
                **self.store.settings,
                **settings,
            },
        )
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()


@asynccontextmanager
async def running_on(store: Stored, folder: Path) -> AsyncIterator[Stage]:
    settings = {"MDM_SECRET_KEY": SECRET_KEY, "MDM_WEBHOOK_RETRY_SCHEDULE": "2s"}
    async with whole_server(folder, settings | store.settings) as whole:
        yield Stage(whole, store)


@pytest.fixture
async def stage(tmp_path: Path, mongodb_url: str) -> AsyncIterator[Stage]:
    """On a MongoDB, beside which other processes may work."""
    with closing(InMongodb(mongodb_url)) as store:
        async with running_on(store, tmp_path) as made:
            yield made


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running_on(InFolder(tmp_path / "data"), tmp_path) as made:
        yield made


@pytest.fixture(params=["embedded", pytest.param("stage", marks=pytest.mark.real)])
def either(request: pytest.FixtureRequest) -> Stage:
    """On each kind of store."""
    made: Stage = request.getfixturevalue(request.param)
    return made


async def tell_secrets(whole: Whole) -> Device:
    device = whole.device()
    assert (await device.authenticate()).status_code == 200
    answer = await device.token_update(PushMagic=MAGIC, UnlockToken=UNLOCK_TOKEN)
    assert answer.status_code == 200
    answer = await device.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP_TOKEN)
    assert answer.status_code == 200
    return device


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.05)


def refuse_one_and_leave_the_next_ones_waiting() -> Script:
    """The retry of the first event ends when the connection does, and all events behind it wait for that."""
    answers = iter([Behaviour(status=500)])
    return lambda event: next(answers, Behaviour(Kind.HANG))


def refuse_events_of(udid: str) -> Script:
    return lambda event: Behaviour(status=500 if udid in str(event) else 200)


async def test_no_secret_is_in_the_store_while_deliveries_work_wait_and_are_given_up_on(
    either: Stage,
) -> None:
    stage, whole = either, either.whole
    device = await tell_secrets(whole)
    await whole.events_of(device.id, 3)
    command = {
        "udid": device.id,
        "request_type": "ClearPasscode",
        "unlock_token": base64.b64encode(COMMANDS_TOKEN).decode(),
    }
    assert (await whole.api("POST", "/v1/commands", command)).status_code == 201
    assert count(stage.store, "commands") == 1
    assert stage.clear() == []
    was_sent = plistlib.loads((await device.connect()).content)
    assert was_sent["Command"]["UnlockToken"] == COMMANDS_TOKEN
    assert stage.clear() == []

    await whole.events_of(device.id, 4)
    whole.sink.script = refuse_one_and_leave_the_next_ones_waiting()
    again = await tell_secrets(whole)
    await until(lambda: stage.deliveries("partition") == 3)
    assert stage.clear() == []

    await whole.sink.stop()
    await whole.sink.start(whole.sink.port)
    whole.sink.script = refuse_events_of(again.id)
    other = await whole.enrolled()
    async with asyncio.timeout(30):
        while whole.metric(DEAD_LETTERED) < 3:  # only while it takes events of others
            await other.connect()
    assert stage.deliveries("body") == 3
    assert stage.clear() == []

    whole.sink.script = None
    said = await deliveries_command(whole.process, "retry")
    assert "3 deliveries" in said
    events = await whole.events_of(again.id, 3)
    raw = [base64.b64decode(event["checkin_event"]["raw_payload"]) for event in events]
    assert MAGIC.encode() in raw[1]
    assert base64.b64encode(BOOTSTRAP_TOKEN)[:40] in b"".join(raw[2].split())


async def test_keys_are_changed_beside_a_running_server(stage: Stage) -> None:
    whole = stage.whole
    device = await tell_secrets(whole)
    await whole.events_of(device.id, 3)
    both = f"{SECRET_KEY},{NEW_KEY}"

    code, said = await stage.command(f"{NEW_KEY},{SECRET_KEY}", "rotate-secrets")

    assert code == 0, said
    assert re.search(rf"^key {NEW_ID}: {VALUES} values \(current\)$", said, re.MULTILINE)
    assert OLD_ID not in said
    assert stage.clear() == []
    # The server that runs knows the old key alone: what needs the new one says so.
    assert (await device.checkin("GetBootstrapToken")).status_code == 503
    assert NEW_ID in whole.process.output()
    assert (await device.connect()).status_code == 200

    code, said = await stage.command(both, "rotate-secrets")
    assert code == 0, said
    assert BOOTSTRAP_TOKEN in await bootstrap_token(device)


async def test_rotation_says_what_is_left_under_a_key_that_it_lacks(stage: Stage) -> None:
    device = await tell_secrets(stage.whole)
    await stage.whole.events_of(device.id, 3)

    code, said = await stage.command(NEW_KEY, "rotate-secrets")

    assert code == 1
    assert re.search(rf"^key {OLD_ID}: {VALUES} values$", said, re.MULTILINE)
    assert re.match(rf"macromdm: {VALUES} values are not under the current", said.splitlines()[-1])
    assert BOOTSTRAP_TOKEN in await bootstrap_token(device)


async def test_an_identity_comes_from_the_encrypted_authority_and_from_no_other_key(
    stage: Stage, tmp_path: Path
) -> None:
    arguments = ("identity", "--name", "device", "--out", str(tmp_path / "identity"))

    refused, said = await stage.command(NEW_KEY, *arguments)
    code, _ = await stage.command(SECRET_KEY, *arguments)

    assert (refused, code) == (2, 0)
    assert "MDM_SECRET_KEY" in said
    assert OLD_ID in said
    assert (tmp_path / "identity" / "device-key.pem").exists()


async def bootstrap_token(device: Device) -> bytes:
    answer = await device.checkin("GetBootstrapToken")
    assert answer.status_code == 200
    body = answer.content
    inner = body.split(b"<data>")[1].split(b"</data>")[0]
    return base64.b64decode(b"".join(inner.split()))


@pytest.mark.parametrize("name", ["checkin", "commands", "push", "webhook"])
async def test_no_service_starts_with_a_key_that_is_not_the_installations(
    stage: Stage, amqp_url: str, tmp_path: Path, name: str
) -> None:
    settings = {
        "MDM_AMQP_URL": amqp_url,
        "MDM_SERVER_URL": "https://mdm.example.com",
        "MDM_HTTP": "127.0.0.1:0",
        "MDM_OPS_HTTP": "127.0.0.1:0",
        "MDM_WEBHOOK_URL": "https://receiver.example.com",
    }

    code, said = await stage.command(NEW_KEY, name, **settings)

    assert code == 2
    assert said.splitlines()[-1].startswith("macromdm: MDM_SECRET_KEY: does not open")
    assert OLD_ID in said
