"""A tour of every route: requests with fixed ids, and what was answered, journaled and stored.

Promise: `Tour.answers` has the answer of each request under its route and a label, in the order of the tour.
The same server is asked the same in every run, so only what `snapshots.masked` knows of differs.
"""

import asyncio
import base64
import hashlib
import plistlib
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography import x509

from tests.integration.whole import TOPIC, Device, Whole, given
from tests.outside.snapshots import masked
from tests.support.harness.scep import Client, csr, key_number

MAC = "A0000000-0000-4000-8000-000000000001"
PHONE = "00008030-000000000000001E"
ENROLLMENT = "E0000000-0000-4000-8000-000000000002"
IMPORTED = "B0000000-0000-4000-8000-000000000003"
STRANGER = "C0000000-0000-4000-8000-000000000004"
USER = "D0000000-0000-4000-8000-000000000005"
KNOWN = {MAC, ENROLLMENT, IMPORTED, STRANGER, USER}
HEADERS = ("content-type", "www-authenticate", "retry-after", "allow", "content-disposition")
LONGEST = 6000
"""Characters of an answer that are kept; of a longer one its hash."""
REFUSALS = 3
"""Kinds of refusals of the Mac's messages until its record is looked at."""
PROFILE = plistlib.dumps(
    {
        "PayloadType": "Configuration",
        "PayloadIdentifier": "org.example.wifi",
        "PayloadUUID": "11111111-2222-4333-8444-555555555555",
        "PayloadVersion": 1,
        "PayloadContent": [],
    }
)


@dataclass
class Tour:
    """Calls a server, and writes down what it answered."""

    whole: Whole
    answers: dict[str, str] = field(default_factory=dict)
    in_json: list[tuple[str, int, Any]] = field(default_factory=list)
    """Route, status and content of each answer in JSON."""

    def note(self, route: str, label: str, answer: httpx.Response) -> httpx.Response:
        name = f"{route} -- {label}"
        assert name not in self.answers, name
        kept = [f"{each}: {answer.headers[each]}" for each in HEADERS if each in answer.headers]
        text = "\n".join([str(answer.status_code), *map(masked, kept), self._body(answer)])
        self.answers[name] = text.rstrip("\n") + "\n"
        if answer.headers.get("content-type", "").startswith("application/json"):
            self.in_json.append((route, answer.status_code, answer.json()))
        return answer

    def _body(self, answer: httpx.Response) -> str:
        try:
            text = masked(answer.content.decode(), KNOWN)
        except UnicodeDecodeError:
            return "<bytes>"
        if len(text) > LONGEST:
            return f"<{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()}>"
        return text

    async def api(
        self, method: str, template: str, label: str, body: object = None, **more: Any
    ) -> httpx.Response:
        """A call of the API; `more` may fill the template (`at`), and has the query."""
        path = template.format(**more.pop("at", {}))
        answer = await self.whole.api(method, path, body, **more)
        return self.note(f"{method} {template}", label, answer)

    async def device(self, device: Device, path: str, label: str, **keys: Any) -> httpx.Response:
        """A message of a device."""
        body = plistlib.dumps({**device.ids, **keys})
        return self.note(f"PUT {path}", label, await device.send(path, body))

    async def plain(self, method: str, path: str, label: str, **more: Any) -> httpx.Response:
        """A request without a key."""
        answer = await self.whole.http.request(method, self.whole.url_of(path), **more)
        return self.note(f"{method} {path.partition('?')[0]}", label, answer)


async def tour(whole: Whole) -> Tour:
    """Everything, once."""
    made = Tour(whole)
    mac = whole.device(UDID=MAC)
    mac.token = b"t" * 32
    await _open(made)
    await _enroll(made, mac)
    await _profiles(made)
    await _commands(made, mac)
    await _terms(made)
    await _devices(made, mac)
    mac = await _identities(made, mac)
    await _migrate(made)
    await _access(made)
    await _push(made)
    await _webhooks(made)
    await _remove(made, mac)
    return made


async def _open(made: Tour) -> None:
    await made.plain("GET", "/version", "open to all")
    await made.plain("GET", "/v1/nothing", "an unknown route")
    await made.plain("GET", "/v1/devices", "no key")
    await made.plain("PATCH", "/v1/devices", "a method that is not there")
    await made.api("GET", "/v1/request_types", "all commands")
    await made.api("GET", "/v1/request_types/{name}", "one", at={"name": "DeviceLock"})
    await made.api("GET", "/v1/request_types/{name}", "none", at={"name": "DeviceLok"})


async def _enroll(made: Tour, mac: Device) -> None:
    for path in ("/mdm/enroll", "/ota/enroll"):
        await made.plain("GET", path, "a profile")
    await made.plain("POST", "/mdm/enroll", "a profile")
    await made.plain("POST", "/ota/phase23", "no profile service message", content=b"x")
    await made.plain("GET", "/scep?operation=GetCACaps", "its capabilities")
    ca = await made.plain("GET", "/scep?operation=GetCACert", "its CA")
    await made.plain("POST", "/scep?operation=PKIOperation", "no message", content=b"x")
    challenge = await made.api("POST", "/v1/challenge", "for a device", {"udid": STRANGER})
    key = key_number(0)
    client = Client(x509.load_der_x509_certificate(ca.content), key)
    request = client.request(csr(key, challenge.json()["challenge"]), transaction=uuid.uuid4().hex)
    await made.plain("POST", "/scep?operation=PKIOperation", "a certificate", content=request)
    user = mac.user(UserID=USER, UserShortName="user")
    checkin = "/mdm/checkin"
    machine = {
        "Topic": TOPIC,
        "SerialNumber": "C02TOUR00001",
        "OSVersion": "26.0",
        "BuildVersion": "25A1",
    }
    machine |= {"ProductName": "Mac16,1", "Model": "Mac16,1", "DeviceName": "A Mac"}
    push = {"Topic": TOPIC, "Token": mac.token, "PushMagic": "magic"}
    stranger = made.whole.device(
        UDID=STRANGER
    )  # not the Mac: its record would have it only sometimes
    await made.device(stranger, checkin, "unknown", MessageType="TokenUpdate", **push)
    await made.device(mac, checkin, "Authenticate", MessageType="Authenticate", **machine)
    await made.device(
        mac, checkin, "TokenUpdate", MessageType="TokenUpdate", UnlockToken=b"u" * 20, **push
    )
    await made.device(user, checkin, "UserAuthenticate", MessageType="UserAuthenticate")
    await made.device(user, checkin, "of a user", MessageType="TokenUpdate", **push)
    await made.device(
        mac, checkin, "SetBootstrapToken", MessageType="SetBootstrapToken", BootstrapToken=b"b" * 20
    )
    await made.device(mac, checkin, "GetBootstrapToken", MessageType="GetBootstrapToken")
    await made.device(mac, checkin, "DeclarativeManagement", MessageType="DeclarativeManagement")
    await made.device(mac, checkin, "a key is missing", MessageType="TokenUpdate", Topic=TOPIC)
    await made.device(mac, "/mdm", "of either kind", Status="Idle")
    await made.device(mac, "/checkin", "of neither kind")
    body = plistlib.dumps({"UDID": MAC, "Status": "Idle"})
    unsigned = await mac.send("/mdm/connect", body, signature="")
    made.note("PUT /mdm/connect", "unsigned", unsigned)
    other = made.whole.device(EnrollmentID=ENROLLMENT)
    await made.device(
        other, checkin, "of a user enrollment", MessageType="Authenticate", Topic=TOPIC
    )


async def _profiles(made: Tour) -> None:
    profile = {"Identifier": "org.example.wifi", "Mobileconfig": base64.b64encode(PROFILE).decode()}
    await made.api("PUT", "/v1/profiles", "one", {"profile": profile})
    await made.api("PUT", "/v1/profiles", "broken", {"profile": {"Identifier": "x"}})
    await made.api("POST", "/v1/profiles", "all", {})
    await made.api("POST", "/v1/profiles", "none of that name", {"id": "nothing"})


async def _commands(made: Tour, mac: Device) -> None:
    connect, one = "/mdm/connect", "/v1/commands/{udid}/{command_uuid}"

    async def queue(uuid: str, request_type: str, **more: Any) -> httpx.Response:
        body = {"udid": MAC, "command_uuid": uuid, "request_type": request_type, **more}
        return await made.api("POST", "/v1/commands", f"{request_type} {uuid}", body)

    await queue("first", "DeviceInformation", queries=["OSVersion"])
    await queue("second", "SecurityInfo")
    await queue("third", "ProfileList")
    await queue("third", "RestartDevice")
    await queue("fourth", "Nonsense")
    await queue("fifth", "DeviceLock", pni="1")
    await queue("sixth", "InstallProfile", payload=base64.b64encode(b"<no profile>").decode())
    await made.api(
        "POST", "/v1/commands", "nobody", {"udid": "nobody", "request_type": "ProfileList"}
    )
    await made.api("POST", "/v1/commands", "no JSON", b"{")
    raw = plistlib.dumps({"CommandUUID": "raw", "Command": {"RequestType": "CertificateList"}})
    at = {"udid": MAC}
    for method in ("POST", "PUT"):
        await made.api(method, "/v1/commands/{udid}", "a property list", raw, at=at)
    await made.api("GET", "/v1/commands/{udid}", "the open ones", at=at)
    assert given(await made.device(mac, connect, "Idle", Status="Idle")) == "first"
    answered = {"CommandUUID": "first", "QueryResponses": {"OSVersion": "26.0", "Data": b"x"}}
    done = await made.device(mac, connect, "Acknowledged", Status="Acknowledged", **answered)
    assert given(done) == "second"
    put_off = {"Status": "NotNow", "CommandUUID": "second"}
    assert given(await made.device(mac, connect, "NotNow", **put_off)) == "third"
    chain = [
        {
            "ErrorCode": 4,
            "ErrorDomain": "D",
            "LocalizedDescription": "l",
            "USEnglishDescription": "e",
        }
    ]
    failed = {"Status": "Error", "CommandUUID": "third", "ErrorChain": chain}
    assert given(await made.device(mac, connect, "Error", **failed)) == "sixth"
    await made.device(
        mac, connect, "CommandFormatError", Status="CommandFormatError", CommandUUID="sixth"
    )
    for command in ("first", "second", "third", "sixth", "raw", "nothing"):
        await made.api("GET", one, command, at={"udid": MAC, "command_uuid": command})
    await made.api("DELETE", one, "cancel", at={"udid": MAC, "command_uuid": "raw"})
    await made.api("DELETE", one, "ended", at={"udid": MAC, "command_uuid": "first"})
    await made.api("GET", "/v1/commands", "a history", params={"limit": "2"})
    await made.api("GET", "/v1/commands", "a typo", params={"status": "queued"})


async def _terms(made: Tour) -> None:
    """Commands that end by themselves, and a job."""
    question = {"udid": MAC, "request_type": "CertificateList", "supersede": True}
    for command in ("older", "newer"):
        await made.api("POST", "/v1/commands", command, question | {"command_uuid": command})
    short = {"udid": MAC, "command_uuid": "short", "request_type": "UserList", "ttl": 1}
    await made.api("POST", "/v1/commands", "short", short)
    job = {"udids": [MAC, "nobody"], "request_type": "AvailableOSUpdates", "command_uuid": "many"}
    done = await made.api("POST", "/v1/commands", "a job", job)
    await made.api("GET", "/v1/jobs", "all")
    await made.api("GET", "/v1/jobs/{id}", "one", at={"id": done.json()["job"]["id"]})
    await made.api("GET", "/v1/jobs/{id}", "none", at={"id": "nothing"})
    await made.api("DELETE", "/v1/commands/{udid}", "clear a queue", at={"udid": ENROLLMENT})


async def _devices(made: Tour, mac: Device) -> None:
    at = {"udid": MAC}
    async with asyncio.timeout(30):
        while (
            len((await made.whole.api("GET", f"/v1/devices/{MAC}")).json()["refusals"]) < REFUSALS
        ):
            await asyncio.sleep(0.2)
    await made.api("POST", "/v1/devices", "MicroMDM's list", {"filter_udid": [MAC]})
    await made.api("POST", "/v1/devices", "a typo", {"filter_serials": ["x"]})
    await made.api("GET", "/v1/devices", "a list", params={"udid": MAC})
    for name in ("", "/unlock_token", "/bootstrap_token", "/identity"):
        await made.api("GET", "/v1/devices/{udid}" + name, "of a Mac", at=at)
        await made.api("GET", "/v1/devices/{udid}" + name, "of nobody", at={"udid": "nobody"})
    await made.api("POST", "/v1/devices/{udid}/block", "a Mac", at=at)
    await made.device(mac, "/mdm/connect", "blocked", Status="Idle")
    await made.api("POST", "/v1/devices/{udid}/unblock", "a Mac", at=at)


async def _identities(made: Tour, mac: Device) -> Device:
    """The Mac comes with another certificate, which an administrator binds. The Mac as it is from then on."""
    stranger = Device(made.whole, made.whole.authority.issue(), mac.ids)
    await made.device(stranger, "/mdm/connect", "another certificate", Status="Idle")
    path = f"/v1/devices/{MAC}/identity"
    async with asyncio.timeout(30):
        while (await made.whole.api("GET", path)).json()["quarantine"] is None:
            await asyncio.sleep(0.2)
    at = {"udid": MAC}
    shown = await made.api("GET", "/v1/devices/{udid}/identity", "in quarantine", at=at)
    body = {"certificate_sha256": shown.json()["quarantine"]["certificate"]["sha256"]}
    await made.api("POST", "/v1/devices/{udid}/identity", "bind", body, at=at)
    await made.device(stranger, "/mdm/connect", "bound by an administrator", Status="Idle")
    return stranger


async def _migrate(made: Tour) -> None:
    keys = {
        "MessageType": "Authenticate",
        "UDID": IMPORTED,
        "Topic": TOPIC,
        "SerialNumber": "C02TOUR00002",
    }
    await made.api("PUT", "/migration", "a device", plistlib.dumps(keys), headers={})
    await made.api("PUT", "/migration", "again", plistlib.dumps(keys), headers={})
    await made.api("PUT", "/migration", "no message", b"x", headers={})


async def _access(made: Tour) -> None:
    body = {"name": "reader", "scopes": ["read"]}
    token = await made.api("POST", "/v1/tokens", "make", body)
    await made.api("POST", "/v1/tokens", "again", body)
    await made.api("GET", "/v1/tokens", "all")
    reader = ("macromdm", token.json()["token"])
    async with asyncio.timeout(30):
        while (await made.whole.api("GET", "/v1/devices", auth=reader)).status_code != 200:
            await asyncio.sleep(0.2)
    body = {"udid": MAC, "request_type": "ProfileList"}
    await made.api("POST", "/v1/commands", "without the scope", body, auth=reader)
    await made.api("DELETE", "/v1/tokens/{id}", "revoke", at={"id": token.json()["id"]})
    await made.api("DELETE", "/v1/tokens/{id}", "none", at={"id": "nothing"})
    await made.api(
        "GET", "/v1/audit", "two entries", params={"limit": "2", "action": "token.create"}
    )


async def _push(made: Tour) -> None:
    for method, path in (("GET", "/push/{udid}"), ("POST", "/v1/push/{udid}")):
        await made.api(method, path, "a Mac", at={"udid": MAC})
        await made.api(method, path, "nobody", at={"udid": "nobody"})
    pair = made.whole.apns.certificate("com.apple.mgmt.External.tour")
    files = {"cert": pair.certificate.read_bytes(), "key": pair.key.read_bytes()}
    body = {name: base64.b64encode(content).decode() for name, content in files.items()}
    await made.api("PUT", "/v1/config/certificate", "another topic", body)
    await made.api(
        "PUT", "/v1/config/certificate", "no certificate", {"cert": "eA==", "key": "eA=="}
    )
    await made.api("GET", "/v1/config/certificate", "of several", params={"topic": TOPIC})
    await made.api("GET", "/v1/config/certificates", "all")
    at = {"topic": "com.apple.mgmt.External.tour"}
    await made.api("DELETE", "/v1/config/certificates/{topic}", "one", at=at)


async def _webhooks(made: Tour) -> None:
    """A subscription to which no event of the tour goes."""
    url, secret = (
        "https://93.184.216.34/events?key=0",
        f"whsec_{base64.b64encode(bytes(24)).decode()}",
    )
    body: dict[str, Any] = {"name": "tour", "url": url, "topics": ["macromdm.RenewalFailed"]}
    all_of_it = {
        "secret": secret,
        "headers": {"X-A": "1"},
        "authorization": {"type": "basic", "user": "u", "password": "p"},
        "filters": {"serial_numbers": ["none"]},
        "retry_schedule": ["1 s", "1 min"],
        "include": {"topics": ["macromdm.CommandExpired"], "keys": ["payload"]},
    }
    await made.api("POST", "/v1/webhooks", "make", body)
    await made.api("POST", "/v1/webhooks", "inside", {**body, "url": "http://127.0.0.1/"})
    await made.api("POST", "/v1/webhooks", "an unknown key", {**body, "retries": 1})
    made_one = await made.api("POST", "/v1/webhooks", "with all of it", body | all_of_it)
    path, at = "/v1/webhooks/{id}", {"id": made_one.json()["id"]}
    await made.api("GET", "/v1/webhooks", "all")
    await made.api("GET", path, "one", at=at)
    await made.api("GET", path, "none", at={"id": "nothing"})
    await made.api("PATCH", path, "one", {"batch": 10, "headers": None}, at=at)
    await made.api("PATCH", path, "of the settings", {"batch": 10}, at={"id": "config"})
    await made.api("POST", f"{path}/pause", "one", at=at)
    await made.api("POST", f"{path}/resume", "one", at=at)
    await made.api("POST", f"{path}/secret", "another", {"keep_former_for": "1 h"}, at=at)
    await made.api("GET", f"{path}/deliveries", "none", at=at)
    await made.api("POST", f"{path}/deliveries/retry", "all", at=at)
    await made.api("POST", f"{path}/deliveries/skip", "none", {"event_ids": ["x"]}, at=at)
    await made.api("POST", f"{path}/test", "of the settings", at={"id": "config"})
    replay = await made.api("POST", f"{path}/replay", "no such event", {"event_ids": ["x"]}, at=at)
    await made.api("POST", f"{path}/replay", "not clear", {"device": MAC}, at=at)
    at_replay = {**at, "replay": replay.json()["id"]}
    async with asyncio.timeout(30):
        while (await made.whole.api("GET", f"/v1/webhooks/{at['id']}/replays")).json()["replays"][
            0
        ]["state"] == "running":
            await asyncio.sleep(0.2)
    await made.api("GET", f"{path}/replays", "one", at=at)
    await made.api("GET", f"{path}/replays/{{replay}}", "one", at=at_replay)
    await made.api("DELETE", path, "one", at=at)


async def _remove(made: Tour, mac: Device) -> None:
    await made.device(mac, "/checkin", "CheckOut", MessageType="CheckOut")
    await made.api("DELETE", "/v1/devices/{udid}/identity", "reset", at={"udid": MAC})
    await made.api("DELETE", "/v1/profiles", "one", {"ids": ["org.example.wifi"]})
    await made.api("DELETE", "/v1/devices", "one", {"udids": [ENROLLMENT]})
