"""An installation of a version with the former embedded store goes on after its store was copied.

The sample was made by that version (`tests/contract/samples/former_store`).
"""

import asyncio
import json
import os
import plistlib
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.runtime.store_folder import COPYING
from tests.integration.whole import Device, Whole, given
from tests.support.harness.apns import FakeApns
from tests.support.harness.identities import DeviceIdentity, FleetAuthority
from tests.support.harness.sink import Sink
from tests.support.harness.system import ServiceProcess, deliveries_command

SAMPLE = Path(__file__).parents[1] / "contract" / "samples" / "former_store"
DOCUMENTS = 42
FOR_EVER = {
    f"MDM_{what}_RETENTION": "36500d" for what in ("EVENT", "COMMAND", "AUDIT")
}  # the sample grows old


@dataclass
class Former:
    """The data folder of the sample, and what is in it."""

    folder: Path
    facts: dict[str, Any]

    async def run(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services", *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd()),
                "MDM_DATA_DIR": str(self.folder),
                "MDM_HTTP": "127.0.0.1:0",
                "MDM_OPS_HTTP": "127.0.0.1:0",
            },
        )  # fmt: skip
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def copied(self, target: Path) -> str:
        code, said = await self.run(
            "store", "copy", "--from", str(self.folder), "--to", str(target)
        )
        assert code == 0, said
        assert f"done: {DOCUMENTS} documents are in {target}" in said
        return said

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Whole]:
        """This version on the folder, with the keys that are in it."""
        async with Sink() as sink, httpx.AsyncClient(timeout=30) as http:
            settings = FOR_EVER | {
                "MDM_API_KEY": "",
                "MDM_DATA_DIR": str(self.folder),
                "MDM_DEVICE_CA": str(SAMPLE / "device-ca.pem"),
                "MDM_WEBHOOK_URL": sink.url,
            }
            process = ServiceProcess("all", self.folder.parent / "process", settings)
            apns, authority = FakeApns(self.folder.parent / "apns"), FleetAuthority()
            try:
                await asyncio.to_thread(process.start)
                yield Whole(process, sink, apns, authority, http)
            finally:
                process.close()

    def device(self, whole: Whole, **ids: str) -> Device:
        identity = DeviceIdentity.load(SAMPLE / "device-key.pem", SAMPLE / "device.pem")
        return Device(whole, identity, {"UDID": self.facts["udid"], **ids})


@pytest.fixture
def former(tmp_path: Path) -> Former:
    with tarfile.open(SAMPLE / "data.tar.xz") as archive:
        # Python 3.11 has the filter since 3.11.4.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(tmp_path)
    return Former(tmp_path / "data", json.loads((SAMPLE / "facts.json").read_text()))


def taken(whole: Whole, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [arrival.event for arrival in whole.sink.taken if arrival.event_id in ids]


async def worked(device: Device) -> list[str]:
    """The commands that it gets until there are no more."""
    done: list[str] = []
    command = given(await device.connect())
    while command is not None:
        done.append(command)
        command = given(await device.connect("Acknowledged", CommandUUID=command))
    return done


async def test_nothing_is_served_from_the_former_store_and_the_reason_says_what_to_do(
    former: Former,
) -> None:
    before = sorted(path.name for path in former.folder.iterdir())

    code, said = await former.run("all")

    assert code == 2
    assert said.splitlines()[-1] == (
        f"macromdm: MDM_DATA_DIR: {former.folder} has the store of an earlier version: copy it first, by "
        f"`python -m services store copy --from {former.folder} --to {former.folder}` (docs/storage.md)"
    )
    assert sorted(path.name for path in former.folder.iterdir()) == sorted([*before, "lock"])


async def test_an_installation_goes_on_in_its_folder(former: Former) -> None:
    facts = former.facts

    said = await former.copied(former.folder)

    assert f"{former.folder}/store can be removed" in said
    assert not (former.folder / COPYING).exists()
    shutil.rmtree(former.folder / "store")

    async with former.serving() as whole:
        api_key = (former.folder / "api-key").read_text().strip()
        listed = await deliveries_command(whole.process, "list", api_key=api_key)
        assert f"device={facts['given_up']}" in listed
        retried = await deliveries_command(whole.process, "retry", api_key=api_key)
        assert "1 delivery will be tried again" in retried

        # what waited, was blocked and was dead-lettered arrives
        for name, topic in (("blocked", "mdm.Authenticate"), ("given_up", "mdm.Authenticate")):
            [event] = await whole.events_of(facts[name], 1)
            assert event["topic"] == topic
        async with asyncio.timeout(20):
            while not (waiting := taken(whole, facts["waiting"])):
                await asyncio.sleep(0.02)
        assert waiting[0]["topic"] == "mdm.Connect"
        assert waiting[0]["acknowledge_event"]["udid"] == facts["udid"]

        # the device has its identity, its commands and its secrets
        device = former.device(whole)
        assert sorted(await worked(device)) == facts["open"]
        user = former.device(whole, UserID=facts["user"])
        assert await worked(user) == facts["open_of_user"]
        answer = await device.checkin("GetBootstrapToken")
        assert plistlib.loads(answer.content)["BootstrapToken"].decode() == facts["bootstrap_token"]

        # the API has its key, its token and its profile
        key = (former.folder / "api-key").read_text().strip()
        wanted = {"id": facts["profile"]}
        answer = await whole.api("POST", "/v1/profiles", wanted, auth=("micromdm", key))
        assert [each["Identifier"] for each in answer.json()["profiles"]] == [facts["profile"]]
        bearer = {"Authorization": f"Bearer {facts['token']}"}
        answer = await whole.http.get(whole.url_of(f"/v1/devices/{device.id}"), headers=bearer)
        assert (answer.status_code, answer.json()["udid"]) == (200, device.id)


async def test_an_installation_goes_on_in_another_folder_and_the_former_one_is_kept(
    former: Former, tmp_path: Path
) -> None:
    target = Former(tmp_path / "new", former.facts)

    await former.copied(target.folder)

    names = {path.name for path in target.folder.iterdir()}
    assert names == {"store.db", "lock", "api-key", "secret-key"}
    async with target.serving() as whole:
        assert sorted(await worked(target.device(whole))) == former.facts["open"]
    await former.copied(tmp_path / "again")
