"""Bindings over HTTP: renewal the whole way, quarantine and its end, and who may enroll a device anew."""

import asyncio
import plistlib
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.concurrency.clock import SystemClock
from shared.storage.sqlite import open_database
from tests.integration.test_enrollment_whole_way import Simulated, payload
from tests.integration.whole import TOPIC, Device, Whole, given, new_id, whole_server
from tests.support.harness import scep
from tests.support.harness.identities import DeviceIdentity, FleetAuthority, rsa_key, valid_for
from tests.support.harness.system import ServiceProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

REBOUND, QUARANTINED = "macromdm.CertificateRebound", "macromdm.DeviceQuarantined"
DAY = timedelta(days=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """A server that lets a device enroll anew only with a certificate that is for it."""
    settings = {
        "MDM_WEBHOOK_EXTRA_TOPICS": f"{REBOUND},{QUARANTINED}",
        "MDM_REENROLLMENT": "bound",
    }
    async with whole_server(tmp_path_factory.mktemp("bindings"), settings) as found:
        yield found


async def until(found: Callable[[], Awaitable[Any]]) -> Any:
    """What it returns, once that is something."""
    async with asyncio.timeout(30):
        while not (value := await found()):
            await asyncio.sleep(0.1)
    return value


async def identity_of(whole: Whole, device: str) -> dict[str, Any]:
    answer = await whole.api("GET", f"/v1/devices/{device}/identity")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def rebind(whole: Whole, device: str, certificate: str, **more: Any) -> httpx.Response:
    body = {"certificate_sha256": certificate, **more}
    return await whole.api("POST", f"/v1/devices/{device}/identity", body)


async def quarantine_of(whole: Whole, device: str) -> Any:
    return (await identity_of(whole, device))["quarantine"]


async def told(whole: Whole, device: str, topic: str) -> dict[str, Any]:
    """The first event of this topic about a device."""

    async def found() -> list[dict[str, Any]]:
        return [
            dict(arrival.event["device_event"])
            for arrival in whole.sink.taken
            if arrival.event["topic"] == topic and arrival.event["device_event"]["udid"] == device
        ]

    return dict((await until(found))[0])


def made_by_openssl(authority: FleetAuthority, folder: Path) -> DeviceIdentity:
    """Another certificate for a device, of the same CA, with a key of its own."""
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "ca.key").write_bytes(authority.identity.key_pem)
    (folder / "ext").write_text("basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n")
    for command in (
        "req -new -newkey rsa:2048 -nodes -keyout key.pem -subj /CN=found-again -out csr.pem",
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile ext "
        "-out cert.pem",
    ):
        subprocess.run(
            ["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=60
        )
    certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    return DeviceIdentity(certificate, key)  # type: ignore[arg-type]  # openssl made it: RSA


async def scep_identity(whole: Whole, body: dict[str, str], number: int) -> DeviceIdentity:
    """An identity of our SCEP by POST /v1/challenge."""
    answer = await whole.api("POST", "/v1/challenge", body)
    url = whole.url_of("/scep")
    ca = await whole.http.get(url, params={"operation": "GetCACert"})
    key = rsa_key(number)
    client = scep.Client(x509.load_der_x509_certificate(ca.content), key)
    request = scep.csr(key, answer.json()["challenge"])
    return await _asked(
        whole, client, client.request(request, transaction=uuid.uuid4().hex), number
    )


async def _asked(whole: Whole, client: scep.Client, message: bytes, number: int) -> DeviceIdentity:
    url = whole.url_of("/scep")
    answer = await whole.http.post(url, params={"operation": "PKIOperation"}, content=message)
    reply = client.read(answer.content)
    assert reply.certificate is not None, reply
    return DeviceIdentity(reply.certificate, rsa_key(number))


# --- renewal


async def test_a_certificate_near_its_end_is_renewed_the_whole_way(
    tmp_path: Path,
) -> None:
    settings = {"MDM_DEVICE_CA": "", "MDM_WEBHOOK_EXTRA_TOPICS": REBOUND}
    async with whole_server(tmp_path, settings) as whole:
        device = Simulated(whole, new_id())
        profile = await device.fetch("/mdm/enroll?site=z%C3%BCrich")
        await device.enrolls_with(profile)
        old, before = device.identity, await identity_of(whole, device.udid)
        assert old is not None
        await comes_near_its_end(whole.process, device.udid)

        async def asked() -> bytes:
            answer = await device.reports("Idle")
            assert answer.status_code == 200
            return answer.content

        command = plistlib.loads(await until(asked))
        renewing = plistlib.loads(command["Command"]["Payload"])
        assert command["Command"]["RequestType"] == "InstallProfile"
        assert renewing["PayloadIdentifier"] == profile["PayloadIdentifier"]
        for name in ("ServerURL", "CheckInURL", "Topic", "AccessRights"):
            kind = "com.apple.mdm"
            assert payload(renewing, kind)[name] == payload(profile, kind)[name]

        device.number = 1
        await device.gets_identity(renewing)
        assert len((await identity_of(whole, device.udid))["next"]) == 1
        answer = await device.reports("Acknowledged", CommandUUID=command["CommandUUID"])
        assert (answer.status_code, answer.content) == (200, b"")

        after = await identity_of(whole, device.udid)
        assert device.identity is not None
        assert after["certificate"]["sha256"] == device.identity.fingerprint
        assert (after["bound_by"], after["next"]) == ("renewal", [])
        assert after["retired_certificates_sha256"] == [before["certificate"]["sha256"]]
        assert (await told(whole, device.udid, REBOUND))["how"] == "renewal"
        assert await device.does_one_command()
        replaced = Simulated(whole, device.udid, identity=old, mdm=device.mdm)
        assert (await replaced.reports("Idle")).status_code == 400


async def comes_near_its_end(server: ServiceProcess, device: str) -> None:
    """As if the device had enrolled long ago: time itself cannot be set, so its record is, between two
    runs of the server."""
    assert await asyncio.to_thread(server.terminate) == 0
    now = datetime.now(UTC)
    changes = {
        "identity.bound_at": now - 300 * DAY,
        "identity.certificate.not_after": now + 10 * DAY,
        "renewal_look": now,
    }
    store = open_database(server.folder / "data", SystemClock())
    assert await store.collection("enrollments").update_one({"_id": device}, {"$set": changes}) == 1
    await store.close()
    await asyncio.to_thread(server.start)


async def test_a_renewal_that_the_old_certificate_signed_binds_itself(server: Whole) -> None:
    identity = await scep_identity(server, {}, 2)
    device = Device(server, identity, {"UDID": new_id()})
    await device.enroll()
    ca = await server.http.get(server.url_of("/scep"), params={"operation": "GetCACert"})
    client = scep.Client(
        x509.load_der_x509_certificate(ca.content), rsa_key(2), identity.certificate
    )
    request = client.request(
        scep.csr(rsa_key(3)), kind=scep.RENEWAL_REQ, transaction=uuid.uuid4().hex
    )
    renewed = Device(server, await _asked(server, client, request, 3), device.ids)

    thief = Device(server, renewed.identity, {"UDID": new_id()})
    assert (await thief.authenticate()).status_code == 400
    assert (await device.connect()).status_code == 200  # it was not used yet
    assert (await renewed.connect()).status_code == 200
    assert (await device.connect()).status_code == 400


# --- quarantine


async def test_a_device_that_lost_its_certificate_is_bound_again_in_one_call(
    server: Whole, tmp_path: Path
) -> None:
    device = await server.enrolled()
    found = Device(server, made_by_openssl(server.authority, tmp_path), device.ids)
    command = await device.queue()

    assert (await found.connect()).status_code == 400
    seen = await until(lambda: quarantine_of(server, device.id))
    assert seen["certificate"]["sha256"] == found.identity.fingerprint
    assert seen["certificate"]["subject"] == "CN=found-again"
    assert (await told(server, device.id, QUARANTINED))["reason"] == "other_certificate"
    assert (await rebind(server, device.id, "0" * 64)).status_code == 409

    answer = await rebind(server, device.id, found.identity.fingerprint)

    assert answer.status_code == 200, answer.text
    assert answer.json()["quarantine"] is None
    assert given(await found.connect()) == command
    assert (await device.connect()).status_code == 400
    assert (await told(server, device.id, REBOUND))["how"] == "administrator"
    audit = (await server.api("GET", f"/v1/audit?target={device.id}")).json()
    assert "identity.rebind" in str(audit)


async def test_a_device_whose_certificate_expired_is_served_again_for_some_days(
    server: Whole,
) -> None:
    now = datetime.now(UTC)
    life = valid_for(DAY + timedelta(seconds=4), start=now - DAY)
    device = Device(server, server.authority.issue(profile=life), {"UDID": new_id()})
    await device.enroll()

    async def is_refused() -> bool:
        return (await device.connect()).status_code == 400

    await until(is_refused)
    seen = await until(lambda: quarantine_of(server, device.id))
    assert seen["reason"] == "expired"

    answer = await rebind(server, device.id, device.identity.fingerprint, accept_expired_days=1)

    assert answer.status_code == 200, answer.text
    assert (await device.connect()).status_code == 200
    assert (await device.authenticate()).status_code == 400


# --- who may enroll a device anew


async def test_bound_only_a_certificate_for_that_device_enrolls_it_anew(server: Whole) -> None:
    device = await server.enrolled()
    any_device = Device(server, await scep_identity(server, {}, 4), device.ids)
    its_own = Device(server, await scep_identity(server, {"udid": device.id}, 5), device.ids)
    anothers = Device(server, await scep_identity(server, {"udid": new_id()}, 6), device.ids)

    assert (await any_device.authenticate()).status_code == 400
    assert (await anothers.authenticate()).status_code == 400
    assert (await device.connect()).status_code == 200
    assert (await its_own.authenticate()).status_code == 200
    assert (await its_own.token_update()).status_code == 200
    assert (await device.connect()).status_code == 400


async def test_a_certificate_for_one_device_enrolls_no_other(server: Whole) -> None:
    udid, serial = new_id(), f"S{uuid.uuid4().hex[:8]}"
    by_udid = await scep_identity(server, {"udid": udid}, 7)
    by_serial = await scep_identity(server, {"serial_number": serial}, 8)

    for identity in (by_udid, by_serial):
        thief = Device(server, identity, {"UDID": new_id()})
        assert (await thief.authenticate()).status_code == 400

    assert (await Device(server, by_udid, {"UDID": udid}).authenticate()).status_code == 200
    rightful = Device(server, by_serial, {"UDID": new_id()})
    assert (await rightful.authenticate(SerialNumber=serial)).status_code == 200


async def test_after_a_reset_a_device_enrolls_with_any_trusted_certificate(server: Whole) -> None:
    device = await server.enrolled()
    wiped = Device(server, server.authority.issue(), device.ids)
    assert (await wiped.authenticate()).status_code == 400

    answer = await server.api("DELETE", f"/v1/devices/{device.id}/identity")

    assert (answer.status_code, answer.json()) == (200, {})
    assert (await device.connect()).status_code == 400
    assert (await wiped.checkin("Authenticate", Topic=TOPIC)).status_code == 200
    assert (await device.authenticate()).status_code == 400
    shown = await identity_of(server, device.id)
    assert shown["certificate"]["sha256"] == wiped.identity.fingerprint


async def test_a_replayed_authenticate_is_refused_after_a_new_enrollment(server: Whole) -> None:
    device = await server.enrolled()
    recorded = plistlib.dumps({"MessageType": "Authenticate", "Topic": TOPIC, **device.ids})
    signature = device.identity.sign(recorded)
    anew = Device(server, await scep_identity(server, {"udid": device.id}, 9), device.ids)
    await anew.enroll()

    answer = await device.send("/mdm/checkin", recorded, signature=signature)

    assert (answer.status_code, answer.content) == (400, b"")
    assert (await anew.connect()).status_code == 200


async def test_one_certificate_enrolls_one_device_and_no_second(server: Whole) -> None:
    device = await server.enrolled()
    second = Device(server, device.identity, {"UDID": new_id()})

    assert (await second.authenticate()).status_code == 400
    assert (await device.connect()).status_code == 200
