"""The whole server in one process, with a receiver of events and a fake APNs: what clients meet.

Promise: `Whole` tells exactly what a request left behind: events at the receiver, events journaled,
lines logged, pushes at APNs.
"""

import asyncio
import json
import plistlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.harness.apns import FakeApns, running
from tests.support.harness.identities import DeviceIdentity, FleetAuthority
from tests.support.harness.sink import Arrival, Sink
from tests.support.harness.system import API_KEY, ServiceProcess

TOPIC = "com.apple.mgmt.External.test"
GUIDE_TOPIC = "com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
"""What `curl -d` says of any body."""
NO_SETTINGS: Mapping[str, str] = {}


@dataclass
class Whole:
    """One server, and what stands around it."""

    process: ServiceProcess
    sink: Sink
    apns: FakeApns
    authority: FleetAuthority
    http: httpx.AsyncClient

    def url_of(self, path: str) -> str:
        """Where a path is served."""
        return self.process.url + path

    def device(self, **ids: str) -> "Device":
        """A device with an identity of its own; without ids it has a UDID."""
        return Device(self, self.authority.issue(), ids or {"UDID": new_id()})

    async def enrolled(self, **ids: str) -> "Device":
        device = self.device(**ids)
        await device.enroll()
        return device

    async def api(self, method: str, path: str, body: object = None, **more: Any) -> httpx.Response:
        """A request as the shell scripts send it: JSON that calls itself a form."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        more.setdefault("auth", ("micromdm", API_KEY))
        more.setdefault("headers", FORM)
        return await self.http.request(method, self.url_of(path), content=content, **more)

    def journaled(self) -> float:
        """How many events the journal has taken."""
        return self.metric("macromdm_events_journaled_total")

    def metric(self, name: str) -> float:
        lines = self.process.metrics().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        lines = (line for line in self.process.output().splitlines() if line.startswith("{"))
        return [found for line in lines if (found := json.loads(line)).get("event") == event]

    async def events_of(self, device: str, count: int) -> list[dict[str, Any]]:
        """The events of a device in the order of their arrival, once there are so many."""
        return [arrival.event for arrival in await self.arrivals_of(device, count)]

    async def arrivals_of(self, device: str, count: int) -> list[Arrival]:
        """What came more than once, as it may, counts once."""
        async with asyncio.timeout(20):
            while len(found := self._first_arrivals(device)) < count:
                await asyncio.sleep(0.01)
        return found

    def _first_arrivals(self, device: str) -> list[Arrival]:
        first: dict[str, Arrival] = {}
        for arrival in self.sink.taken:
            if arrival.device == device:
                first.setdefault(arrival.event_id, arrival)
        return list(first.values())

    async def pushed(self, token: bytes) -> Mapping[str, object]:
        """The body of the first push to this token, once it came."""
        async with asyncio.timeout(20):
            while not (found := [p.body for p in self.apns.pushes if p.token == token]):
                await asyncio.sleep(0.01)
        return found[0]


@dataclass
class Device:
    """Sends messages signed with its identity. `ids` are the keys that say who it is."""

    whole: Whole
    identity: DeviceIdentity
    ids: dict[str, str]
    token: bytes = field(default_factory=lambda: uuid.uuid4().bytes * 2)

    @property
    def id(self) -> str:
        return self.ids.get("UDID") or self.ids["EnrollmentID"]

    def user(self, **ids: str) -> "Device":
        """A user channel of this device, with a push token of its own."""
        return Device(self.whole, self.identity, self.ids | ids)

    async def send(
        self, path: str, body: bytes, *, signature: str | None = None, **more: Any
    ) -> httpx.Response:
        """Any bytes; the signature is that of the identity unless another is given ("": none)."""
        signature = self.identity.sign(body) if signature is None else signature
        headers = {"Mdm-Signature": signature} if signature else {}
        url = self.whole.url_of(path)
        return await self.whole.http.put(url, content=body, headers=headers, **more)

    async def checkin(self, message_type: str, *, query: str = "", **keys: Any) -> httpx.Response:
        body = plistlib.dumps({"MessageType": message_type, **self.ids, **keys})
        return await self.send("/mdm/checkin" + query, body)

    async def connect(
        self, status: str = "Idle", *, query: str = "", **keys: Any
    ) -> httpx.Response:
        body = plistlib.dumps({"Status": status, **self.ids, **keys})
        return await self.send("/mdm/connect" + query, body)

    async def authenticate(self, **keys: Any) -> httpx.Response:
        keys = {"Topic": TOPIC, "SerialNumber": f"S{self.id[:10]}"} | keys
        return await self.checkin("Authenticate", **keys)

    async def token_update(self, **keys: Any) -> httpx.Response:
        keys = {"Topic": TOPIC, "Token": self.token, "PushMagic": f"magic-{self.id}"} | keys
        return await self.checkin("TokenUpdate", **keys)

    async def enroll(self) -> None:
        for answer in (await self.authenticate(), await self.token_update()):
            assert answer.status_code == 200

    async def queue(self, command_uuid: str = "", request_type: str = "ProfileList") -> str:
        """Queue a command for it; its CommandUUID."""
        command_uuid = command_uuid or str(uuid.uuid4())
        name = self.ids.get("UserID") or self.ids.get("EnrollmentUserID") or self.id
        body = {"udid": name, "request_type": request_type, "command_uuid": command_uuid}
        answer = await self.whole.api("POST", "/v1/commands", body)
        assert answer.status_code == 201, answer.text
        return command_uuid

    async def refusals(self) -> list[dict[str, Any]]:
        """Those in its record, once there is one."""
        async with asyncio.timeout(20):
            while True:
                answer = await self.whole.api("GET", f"/v1/devices/{self.id}")
                if found := answer.json()["refusals"]:
                    return list(found)
                await asyncio.sleep(0.1)

    async def open_commands(self) -> list[str]:
        answer = await self.whole.api("GET", f"/v1/commands/{self.id}")
        return [command["uuid"] for command in answer.json().get("commands", [])]


def new_id() -> str:
    return str(uuid.uuid4()).upper()


def given(answer: httpx.Response) -> str | None:
    """The CommandUUID that a connect was answered with, None for an empty answer."""
    assert answer.status_code == 200
    return str(plistlib.loads(answer.content)["CommandUUID"]) if answer.content else None


@asynccontextmanager
async def whole_server(
    folder: Path,
    settings: Mapping[str, str] = NO_SETTINGS,
    *,
    webhook: Callable[[str], str] = str,
) -> AsyncIterator[Whole]:
    """Everything up, until the context ends. `webhook` makes MDM_WEBHOOK_URL of the sink's URL."""
    authority = FleetAuthority()
    (folder / "device-ca.pem").write_bytes(authority.pem)
    async with (
        running(folder / "apns") as apns,
        Sink() as sink,
        httpx.AsyncClient(timeout=30) as http,
    ):
        pairs = [apns.certificate(topic) for topic in (TOPIC, GUIDE_TOPIC)]
        process = ServiceProcess(
            "all",
            folder / "all",
            {
                "MDM_DEVICE_CA": str(folder / "device-ca.pem"),
                "MDM_WEBHOOK_URL": webhook(sink.url),
                "MDM_APNS_URL": apns.url,
                "MDM_APNS_CA": str(apns.authority.ca_file),
                "MDM_PUSH_CERT": ",".join(str(pair.certificate) for pair in pairs),
                "MDM_PUSH_KEY": ",".join(str(pair.key) for pair in pairs),
            }
            | dict(settings),
        )
        try:
            await asyncio.to_thread(process.start)
            yield Whole(process, sink, apns, authority, http)
        finally:
            process.close()
