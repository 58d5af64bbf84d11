"""A device that installs its enrollment profile anew keeps all that it has; with the real SCEP, over HTTP."""

import plistlib
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.integration.test_bindings import comes_near_its_end, until
from tests.integration.test_enrollment_whole_way import Simulated, payload
from tests.integration.whole import Whole, given, new_id, whole_server
from tests.support.harness import scep
from tests.support.harness.identities import DeviceIdentity, rsa_key

UNLOCK, BOOTSTRAP = b"unlock" * 20, b"bootstrap"
ANNA = {"UserID": "ANNA", "UserShortName": "anna"}


async def by_our_profile(device: Simulated, _: dict[str, Any]) -> str:
    """Our own renewal asks it to: the command that brought the profile."""
    await comes_near_its_end(device.whole.process, device.udid)

    async def asked() -> bytes:
        return (await device.reports("Idle")).content

    command = plistlib.loads(await until(asked))
    assert command["Command"]["RequestType"] == "InstallProfile"
    await device.gets_identity(plistlib.loads(command["Command"]["Payload"]))
    return str(command["CommandUUID"])


async def by_renewal_request(device: Simulated, profile: dict[str, Any]) -> str:
    """An API client's profile, and a device that renews with its old key."""
    body = {"request_type": "InstallProfile", "udid": device.udid, "payload": "PHBsaXN0Lz4="}
    answer = await device.whole.api("POST", "/v1/commands", body)
    command = str(answer.json()["payload"]["command_uuid"])
    assert given(await device.reports("Idle")) == command
    http, url = (
        device.whole.http,
        payload(profile, "com.apple.security.scep")["PayloadContent"]["URL"],
    )
    ca = await http.get(url, params={"operation": "GetCACert"})
    old = device.identity
    assert old is not None
    client = scep.Client(x509.load_der_x509_certificate(ca.content), rsa_key(0), old.certificate)
    request = client.request(
        scep.csr(rsa_key(1)), kind=scep.RENEWAL_REQ, transaction=uuid.uuid4().hex
    )
    reply = client.read(
        (await http.post(url, params={"operation": "PKIOperation"}, content=request)).content
    )
    assert reply.certificate is not None, reply
    device.identity = DeviceIdentity(reply.certificate, rsa_key(1))
    return command


async def shown(whole: Whole, path: str) -> dict[str, Any]:
    answer = await whole.api("GET", path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def enrolls(device: Simulated) -> None:
    """Authenticate and TokenUpdate with the certificate that it has."""
    assert device.mdm is not None
    topic = device.mdm["Topic"]
    serial = f"S{device.udid[:10]}"
    assert await device.says("Authenticate", Topic=topic, SerialNumber=serial) == 200
    token = {"Token": uuid.uuid4().bytes, "PushMagic": "magic"}
    assert await device.says("TokenUpdate", Topic=topic, **token) == 200


@pytest.mark.parametrize("gets_the_next", [by_our_profile, by_renewal_request])
@pytest.mark.parametrize("mode", ["open", "bound"])
async def test_a_device_that_installs_its_profile_anew_keeps_all_that_it_has(
    tmp_path: Path,
    mode: str,
    gets_the_next: Callable[[Simulated, dict[str, Any]], Awaitable[str]],
) -> None:
    settings = {"MDM_DEVICE_CA": "", "MDM_REENROLLMENT": mode}
    async with whole_server(tmp_path, settings) as whole:
        device = Simulated(whole, new_id())
        profile = await device.fetch("/mdm/enroll")
        await device.enrolls_with(profile)
        token = {"Topic": payload(profile, "com.apple.mdm")["Topic"], "PushMagic": "magic"}
        tokens = token | {"Token": b"t" * 32}
        assert await device.says("TokenUpdate", UnlockToken=UNLOCK, **tokens) == 200
        assert await device.says("TokenUpdate", **tokens, **ANNA) == 200
        assert await device.says("SetBootstrapToken", BootstrapToken=BOOTSTRAP) == 200
        about = f"/v1/devices/{device.udid}"
        before = await shown(whole, about)

        device.number = 1
        install = await gets_the_next(device, profile)
        body = {"udid": device.udid, "request_type": "SecurityInfo"}
        waiting = (await whole.api("POST", "/v1/commands", body)).json()["payload"]["command_uuid"]
        await enrolls(device)
        answer = await device.reports("Acknowledged", CommandUUID=install)

        assert given(answer) == waiting
        after = await shown(whole, about)
        for name in ("generation", "status", "users"):
            assert after[name] == before[name]
        assert (await shown(whole, f"/v1/commands/{device.udid}/{install}"))["state"] == (
            "acknowledged"
        )
        assert (await whole.api("GET", f"{about}/unlock_token")).status_code == 200
        asked = await device.asks("GetBootstrapToken")
        assert plistlib.loads(asked.content)["BootstrapToken"] == BOOTSTRAP

        await enrolls(device)

        assert (await shown(whole, about))["generation"] != before["generation"]
        assert (await shown(whole, f"/v1/commands/{device.udid}/{waiting}"))["state"] == (
            "dropped_reenrolled"
        )
        assert (await whole.api("GET", f"{about}/unlock_token")).status_code == 404
        topics = [event["topic"] for event in await whole.events_of(device.udid, 8)]
        assert topics.count("mdm.Authenticate") == 3
