"""The whole way of a device: profile, SCEP, Authenticate, TokenUpdate, command, CheckOut.

The device here knows one URL, that of the profile; everything else it reads out of what it is given.
"""

import plistlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.integration.whole import TOPIC, Whole, given, new_id, whole_server
from tests.support.harness import scep
from tests.support.harness.identities import (
    DeviceIdentity,
    FleetAuthority,
    envelope,
    rsa_key,
    signer_info,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

APPLE = FleetAuthority("Apple iPhone Device CA")
OIDS = {"O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """A server that trusts nobody's certificates but its own CA's, and knows Apple's devices."""
    folder = tmp_path_factory.mktemp("whole-way")
    (folder / "apple.pem").write_bytes(APPLE.pem)
    settings = {"MDM_DEVICE_CA": "", "MDM_OTA_DEVICE_CA": str(folder / "apple.pem")}
    async with whole_server(folder, settings) as found:
        yield found


@dataclass
class Simulated:
    """A device that has nothing but its name until it enrolls."""

    whole: Whole
    udid: str
    number: int = 0
    identity: DeviceIdentity | None = None
    mdm: dict[str, Any] | None = None

    async def fetch(self, path: str, content: bytes | None = None) -> dict[str, Any]:
        method = "GET" if content is None else "POST"
        answer = await self.whole.http.request(method, self.whole.url_of(path), content=content)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-apple-aspen-config"
        return dict(plistlib.loads(answer.content))

    async def enrolls_with(self, profile: dict[str, Any]) -> None:
        """Install the profile: get the identity, then introduce itself with it."""
        await self.gets_identity(profile)
        self.mdm = payload(profile, "com.apple.mdm")
        identity = payload(profile, "com.apple.security.scep")
        assert self.mdm["IdentityCertificateUUID"] == identity["PayloadUUID"]
        topic = self.mdm["Topic"]
        serial = {"SerialNumber": f"S{self.udid[:10]}"}
        assert await self.says("Authenticate", Topic=topic, **serial) == 200
        token = {"Token": uuid.uuid4().bytes, "PushMagic": "magic"}
        assert await self.says("TokenUpdate", Topic=topic, **token) == 200

    async def gets_identity(self, profile: dict[str, Any]) -> None:
        reply = await self.asks_scep(profile)
        assert reply.is_success and reply.certificate is not None
        self.identity = DeviceIdentity(reply.certificate, rsa_key(self.number))

    async def asks_scep(self, profile: dict[str, Any]) -> scep.Reply:
        """SCEP, as the payload has it."""
        asked = payload(profile, "com.apple.security.scep")["PayloadContent"]
        assert asked["Key Type"] == "RSA" and asked["Keysize"] == 2048
        http, url = self.whole.http, asked["URL"]
        ca = await http.get(url, params={"operation": "GetCACert"})
        assert "AES" in (await http.get(url, params={"operation": "GetCACaps"})).text
        key = rsa_key(self.number)
        client = scep.Client(x509.load_der_x509_certificate(ca.content), key)
        names = [x509.NameAttribute(OIDS[k], v) for [[k, v]] in asked["Subject"]]
        request = scep.csr(key, asked["Challenge"], subject=x509.Name(names))
        message = client.request(request, transaction=uuid.uuid4().hex)
        answer = await http.post(url, params={"operation": "PKIOperation"}, content=message)
        return client.read(answer.content)

    async def says(self, message_type: str, **keys: Any) -> int:
        return (await self.asks(message_type, **keys)).status_code

    async def asks(self, message_type: str, **keys: Any) -> httpx.Response:
        assert self.mdm is not None
        body = {"MessageType": message_type, "UDID": self.udid, **keys}
        return await self._send(self.mdm["CheckInURL"], body)

    async def reports(self, status: str, **keys: Any) -> httpx.Response:
        assert self.mdm is not None
        body = {"Status": status, "UDID": self.udid, **keys}
        return await self._send(self.mdm["ServerURL"], body)

    async def _send(self, url: str, message: dict[str, Any]) -> httpx.Response:
        assert self.identity is not None
        body = plistlib.dumps(message)
        headers = {"Mdm-Signature": self.identity.sign(body)}
        return await self.whole.http.put(url, content=body, headers=headers)

    async def does_one_command(self) -> str:
        """Queued by an API client, fetched, and answered; its CommandUUID."""
        body = {"udid": self.udid, "request_type": "ProfileList"}
        answer = await self.whole.api("POST", "/v1/commands", body)
        assert answer.status_code == 201
        command = str(answer.json()["payload"]["command_uuid"])
        assert given(await self.reports("Idle")) == command
        assert given(await self.reports("Acknowledged", CommandUUID=command)) is None
        return command


def payload(profile: dict[str, Any], kind: str) -> dict[str, Any]:
    [found] = [each for each in profile["PayloadContent"] if each["PayloadType"] == kind]
    return dict(found)


def signed(identity: DeviceIdentity, said: dict[str, Any]) -> bytes:
    content = plistlib.dumps(said)
    info = signer_info(identity, content, "sha256", attributes=True)
    return envelope([info], [identity], content=content)


async def test_a_device_goes_from_the_profile_to_its_check_out(server: Whole) -> None:
    device = Simulated(server, new_id())

    await device.enrolls_with(await device.fetch("/mdm/enroll?site=z%C3%BCrich"))
    command = await device.does_one_command()
    assert await device.says("CheckOut") == 200

    events = await server.events_of(device.udid, 5)
    assert [event["topic"] for event in events] == [
        "mdm.Authenticate",
        "mdm.TokenUpdate",
        "mdm.Connect",
        "mdm.Connect",
        "mdm.CheckOut",
    ]
    said = [event.get("checkin_event") or event["acknowledge_event"] for event in events]
    assert [each["url_params"] for each in said] == [{"site": "zürich"}] * 5
    assert said[3]["command_uuid"] == command
    assert device.mdm is not None and device.mdm["Topic"] == TOPIC


async def test_a_device_goes_the_whole_way_over_the_air(server: Whole) -> None:
    device = Simulated(server, new_id(), number=1)
    first = (await device.fetch("/ota/enroll"))["PayloadContent"]
    said = {"UDID": device.udid, "SERIAL": f"S{device.udid[:10]}", "CHALLENGE": first["Challenge"]}
    path = urlsplit(first["URL"]).path

    second = await device.fetch(path, signed(APPLE.issue(), said))
    await device.gets_identity(second)
    assert device.identity is not None
    third = await device.fetch(path, signed(device.identity, said))
    await device.enrolls_with(third)

    assert await device.does_one_command()


async def test_a_device_of_apples_enrolls_by_posting_what_it_is(server: Whole) -> None:
    device = Simulated(server, new_id(), number=2)
    said = {"UDID": device.udid, "SERIAL": f"S{device.udid[:10]}", "PRODUCT": "Mac16,1"}

    await device.enrolls_with(await device.fetch("/mdm/enroll", signed(APPLE.issue(), said)))

    assert await device.does_one_command()


async def test_a_profile_gives_an_identity_to_one_device_only(server: Whole) -> None:
    profile = await Simulated(server, new_id()).fetch("/mdm/enroll")
    replies = [await Simulated(server, new_id(), number).asks_scep(profile) for number in range(2)]

    assert [reply.is_success for reply in replies] == [True, False]
