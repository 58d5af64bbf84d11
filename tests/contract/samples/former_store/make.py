"""Made the files beside it, once, at the last version with the former embedded store (commit 0c394da).

    git clone . /elsewhere/former && cd /elsewhere/former && git checkout 0c394da && make check
    PYTHONPATH=. .venv/bin/python <this file> <this folder>

It cannot run with a later version, whose `all` makes another store.
"""

import asyncio
import base64
import json
import os
import plistlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from cryptography import x509

from tests.integration.whole import Device, Whole, given, new_id
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.processes import accepts, free_port, spawn
from tests.support.harness.scep import Client, csr, key_number
from tests.support.harness.sink import OK, Behaviour, Kind, Sink
from tests.support.harness.system import ServiceProcess

CHALLENGE = "a challenge that everybody knows"
PROFILE = "com.example.former"
FAILS = Behaviour(status=500)
HANGS = Behaviour(Kind.HANG)
SETTINGS = {
    # Nothing may leave by its age, however old this sample is when it is tested.
    "MDM_EVENT_RETENTION": "36500d",
    "MDM_COMMAND_RETENTION": "36500d",
    "MDM_AUDIT_RETENTION": "36500d",
    "MDM_SCEP_VALIDITY": "3650d",
    "MDM_SCEP_CHALLENGE": CHALLENGE,
}


class Former(ServiceProcess):
    """`all` with the keys that it makes itself."""

    def _launch(self) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.getcwd(),
            "MDM_HTTP": f"127.0.0.1:{self.port}",
            "MDM_OPS_HTTP": f"127.0.0.1:{self._ops_port}",
            "MDM_LOG_FORMAT": "json",
            "MDM_DATA_DIR": str(self.folder / "data"),
            **self._settings,
        }
        return spawn([sys.executable, "-m", "services", "all"], environment, self._log)

    def command(self, *arguments: str) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.getcwd(),
            "MDM_DATA_DIR": str(self.folder / "data"),
        }
        command = [sys.executable, "-m", "services", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()


@asynccontextmanager
async def running(work: Path, sink: Sink, authority: FleetAuthority, schedule: str):
    settings = SETTINGS | {
        "MDM_DEVICE_CA": str(work / "device-ca.pem"),
        "MDM_WEBHOOK_URL": sink.url,
        "MDM_WEBHOOK_RETRY_SCHEDULE": schedule,
    }
    process = Former("all", work, settings)
    async with httpx.AsyncClient(timeout=30) as http:
        try:
            await asyncio.to_thread(process.start)
            yield Whole(process, sink, None, authority, http)  # type: ignore[arg-type]
        finally:
            process.close()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def key_of(work: Path) -> tuple[str, str]:
    return "micromdm", (work / "data" / "api-key").read_text().strip()


async def main(out: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="former-"))
    authority = FleetAuthority()
    (work / "device-ca.pem").write_bytes(authority.pem)
    facts: dict[str, object] = {}
    identity = authority.issue("former")
    async with Sink() as sink:
        async with running(work, sink, authority, "1s") as whole:
            key = key_of(work)

            async def api(method: str, path: str, body: object = None) -> httpx.Response:
                answer = await whole.api(method, path, body, auth=key)
                assert answer.status_code < 300, answer.text
                return answer

            device = Device(
                whole, identity, {"UDID": new_id()}, b"former-push-token-of-the-device!"
            )
            await device.enroll()
            user = Device(whole, identity, device.ids | {"UserID": new_id()}, b"u" * 32)
            answer = await user.token_update(UserShortName="former", UserLongName="Former User")
            assert answer.status_code == 200
            assert (
                await device.checkin("SetBootstrapToken", BootstrapToken=b"former bootstrap")
            ).status_code == 200
            facts |= {
                "udid": device.id,
                "user": user.ids["UserID"],
                "bootstrap_token": "former bootstrap",
            }

            async def queue(name: str, command_uuid: str) -> None:
                body = {"udid": name, "request_type": "ProfileList", "command_uuid": command_uuid}
                await api("POST", "/v1/commands", body | {"collapse_key": command_uuid})

            for name, command_uuid in (
                (device.id, "done"),
                (device.id, "open-1"),
                (device.id, "open-2"),
                (user.ids["UserID"], "open-user"),
            ):
                await queue(name, command_uuid)
            assert given(await device.connect()) == "done"
            assert given(await device.connect("Acknowledged", CommandUUID="done")) == "open-1"
            assert given(await device.connect("NotNow", CommandUUID="open-1")) == "open-2"
            facts["open"] = ["open-1", "open-2"]
            facts["open_of_user"] = ["open-user"]

            content = plistlib.dumps({"PayloadIdentifier": PROFILE, "PayloadType": "Configuration"})
            profile = {"Identifier": PROFILE, "Mobileconfig": base64.b64encode(content).decode()}
            await api("PUT", "/v1/profiles", {"profile": profile})
            facts["profile"] = PROFILE
            facts["token"] = whole.process.command(
                "token", "create", "former", "--scope", "read", "--scope", "commands"
            )

            got = await whole.http.get(whole.url_of("/scep?operation=GetCACert"))
            client = Client(x509.load_der_x509_certificate(got.content), key_number(0))
            request = csr(key_number(0), challenge=CHALLENGE)
            answer = await whole.http.post(
                whole.url_of("/scep?operation=PKIOperation"),
                content=client.request(request),
                headers={"Content-Type": "application/x-pki-message"},
            )
            reply = client.read(answer.content)
            assert reply.is_success, reply
            facts["issued_serial"] = format(reply.certificate.serial_number, "x")

            await until(lambda: len(sink.taken) >= 6)
            # Given up on: this device's events fail, one attempt after the other.
            sink.behaviour = FAILS
            dead_lettered = Device(whole, authority.issue("given-up"), {"UDID": new_id()})
            assert (await dead_lettered.authenticate()).status_code == 200
            await until(lambda: whole.metric("macromdm_deliveries_given_up_total") >= 1)
            facts["given_up"] = dead_lettered.id
            sink.behaviour = OK
            await asyncio.to_thread(whole.process.terminate)

        # Blocked: the first attempt fails, the process ends before the next one.
        async with running(work, sink, authority, "5s,5s,5s,5s,5s,5s") as whole:
            sink.behaviour = FAILS
            blocked = Device(whole, authority.issue("blocked"), {"UDID": new_id()})
            assert (await blocked.authenticate()).status_code == 200
            await until(lambda: whole.metric("macromdm_lanes_blocked") >= 1)
            facts["blocked"] = blocked.id

            # Waiting: journaled and marked, and the process is killed before the first attempt ends.
            sink.behaviour = HANGS
            device = Device(whole, identity, {"UDID": str(facts["udid"])}, device.token)
            requests = len(sink.arrivals)
            assert (await device.connect("Idle")).status_code == 200
            await until(lambda: len(sink.arrivals) > requests)
            facts["waiting"] = [sink.arrivals[-1].event_id]
            whole.process.kill()
        taken = {arrival.event_id for arrival in sink.taken}
        assert not taken & set(facts["waiting"])

    shrink(work / "data" / "store")
    for left in ("lock", "store.url", "store.log"):
        (work / "data" / left).unlink(missing_ok=True)
    (out / "device-ca.pem").write_bytes(authority.pem)
    (out / "device.pem").write_bytes(identity.pem)
    (out / "device-key.pem").write_bytes(identity.key_pem)
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    with tarfile.open(out / "data.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted((work / "data").rglob("*")):
            archive.add(path, f"data/{path.relative_to(work / 'data')}", recursive=False)
    print((out / "data.tar.xz").stat().st_size, "bytes")
    shutil.rmtree(work)


def shrink(folder: Path) -> None:
    """The log of operations goes, and what WiredTiger's journal held stands in its files."""
    for _ in range(2):
        port = free_port()
        program = Path(sys.executable).with_name("secantusd-py")
        process = subprocess.Popen(
            [str(program), "--port", str(port), "--storage-path", str(folder), "--standalone",
             "--oplog-retention-seconds", "1", "--oplog-max-entries", "1"],
        )  # fmt: skip
        while not accepts(port):
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
