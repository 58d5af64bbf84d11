"""Which device was refused, as an operator reads it: in the log, and in GET /v1/devices/{id}."""

import asyncio
import base64
import plistlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.whole import Device, Whole, new_id, whole_server
from tests.support.harness.http1 import Connection, request_bytes
from tests.support.harness.identities import DeviceIdentity, FleetAuthority

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADER = "Client-Cert"
SETTINGS = {
    "MDM_CLIENT_CERT_HEADER": HEADER,
    "MDM_TRUSTED_PROXIES": "127.0.0.1",
    "MDM_MAX_BODY": "65536",
}
LARGE = b" " * 65537


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole_server(tmp_path_factory.mktemp("refusals"), SETTINGS) as found:
        yield found


async def line_of(whole: Whole, **expected: object) -> dict[str, Any]:
    """The line of a refusal that has these fields, once it is there."""
    async with asyncio.timeout(20):
        while True:
            for line in whole.log_lines("device_refused"):
                if expected.items() <= line.items():
                    return line
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Bad:
    """A request that is refused."""

    kind: str
    path: str = "/mdm/checkin"
    body: Callable[[dict[str, str]], bytes] = lambda ids: plistlib.dumps(
        {"MessageType": "TokenUpdate", "Token": b"t", **ids}
    )
    status: int = 400


BAD = {
    "no PushMagic": Bad("plist"),
    "no plist": Bad("plist", "/mdm/connect", lambda ids: b"hello"),
    "a blank before the declaration": Bad(
        "plist", "/mdm/connect", lambda ids: b"<plist>" + plistlib.dumps({"Status": "Idle", **ids})
    ),
    "a date outside of time": Bad(
        "plist",
        "/mdm/connect",
        lambda ids: b'<plist version="1.0"><dict><key>UDID</key><date>x</date></dict></plist>',
    ),
    "neither kind of message": Bad("plist", "/mdm", lambda ids: plistlib.dumps(ids)),
    "both kinds": Bad(
        "plist",
        "/checkin",
        lambda ids: plistlib.dumps({"Status": "Idle", "MessageType": "CheckOut", **ids}),
    ),
    "a message that is not served": Bad(
        "message", body=lambda ids: plistlib.dumps({"MessageType": "GetToken", **ids})
    ),
    "the UDID of another": Bad(
        "unknown_device",
        "/mdm/connect",
        lambda ids: plistlib.dumps({"Status": "Idle", "UDID": new_id()}),
    ),
    "too many URL parameters": Bad(
        "message",
        "/mdm/connect?" + "&".join(f"p{number}=1" for number in range(101)),
        lambda ids: plistlib.dumps({"Status": "Idle", **ids}),
    ),
}


Proof = Callable[[DeviceIdentity, bytes], str]
"""The header by which a request proves its device."""


def by_signature(identity: DeviceIdentity, body: bytes) -> str:
    return f"mdm-signature: {identity.sign(body)}\r\n"


def by_header(identity: DeviceIdentity, body: bytes) -> str:
    return f"{HEADER}: :{base64.b64encode(identity.der).decode()}:\r\n"


async def send(whole: Whole, path: str, head: str, body: bytes) -> int:
    async with Connection("127.0.0.1", whole.process.port) as connection:
        return (await connection.send(request_bytes("PUT", path, head, body))).status


@pytest.mark.parametrize("proof", [by_signature, by_header])
async def test_the_log_and_the_record_name_the_device(server: Whole, proof: Proof) -> None:
    """All at once: each waits for seconds until the record is written."""
    await asyncio.gather(*(is_named(server, bad, proof) for bad in BAD.values()))


async def is_named(server: Whole, bad: Bad, proof: Proof) -> None:
    device = await server.enrolled()
    body = bad.body(device.ids)

    assert await send(server, bad.path, proof(device.identity, body), body) == 400

    path = bad.path.partition("?")[0]
    line = await line_of(server, device=device.id)
    assert (line["path"], line["status"], line["kind"]) == (path, 400, bad.kind)
    assert "claimed" not in line
    [refusal] = await device.refusals()
    assert refusal.pop("at").endswith("Z")
    assert refusal == {"reason": bad.kind, "detail": line["reason"], "path": path, "count": 1}


async def test_a_blocked_device_is_named(server: Whole) -> None:
    device = await server.enrolled()
    await server.api("POST", f"/v1/devices/{device.id}/block")

    assert [(await device.connect()).status_code for _ in range(3)] == [401] * 3

    assert (await line_of(server, device=device.id))["kind"] == "blocked"
    async with asyncio.timeout(20):
        while (await device.refusals())[0]["count"] < 3:
            await asyncio.sleep(0.1)


async def test_whoever_speaks_for_another_device_is_named(server: Whole) -> None:
    device, thief = await server.enrolled(), await server.enrolled()

    answer = await Device(server, thief.identity, device.ids).connect()

    assert answer.status_code == 400
    assert (await line_of(server, device=thief.id))["kind"] == "binding"
    [refusal] = await thief.refusals()
    assert refusal["reason"] == "binding"
    shown = (await server.api("GET", f"/v1/devices/{device.id}")).json()
    assert shown["refusals"] == []


async def test_a_large_body_is_named_where_a_proxy_proves_the_device(server: Whole) -> None:
    device = await server.enrolled()

    assert await send(server, "/mdm/connect", by_header(device.identity, LARGE), LARGE) == 413

    assert (await line_of(server, device=device.id))["kind"] == "too_large"
    [refusal] = await device.refusals()
    assert (refusal["reason"], refusal["path"]) == ("too_large", "/mdm/connect")


async def test_a_large_body_without_a_proxy_is_claimed(server: Whole) -> None:
    device = await server.enrolled()

    assert await send(server, "/mdm/connect", by_signature(device.identity, LARGE), LARGE) == 413

    line = await line_of(server, kind="too_large", certificate_sha256=device.identity.fingerprint)
    assert (line["claimed"], line["address"]) == (True, "127.0.0.1")
    assert "device" not in line


async def test_a_signature_of_another_body_is_claimed(server: Whole) -> None:
    device = await server.enrolled()
    head = by_signature(device.identity, b"another")

    assert await send(server, "/mdm/connect", head, plistlib.dumps(device.ids)) == 400

    line = await line_of(server, kind="signature", certificate_sha256=device.identity.fingerprint)
    assert (line["claimed"], "device" in line) == (True, False)


@pytest.mark.parametrize("proof", [by_signature, by_header])
async def test_a_certificate_of_no_ca_of_ours_is_claimed(
    server: Whole, proof: Callable[[DeviceIdentity, bytes], str]
) -> None:
    stranger = FleetAuthority().issue()
    body = plistlib.dumps({"Status": "Idle", "UDID": new_id()})

    assert await send(server, "/mdm/connect", proof(stranger, body), body) == 400

    line = await line_of(server, kind="certificate", certificate_sha256=stranger.fingerprint)
    assert line["claimed"] is True
    assert line["subject"] == stranger.certificate.subject.rfc4514_string()


async def test_a_device_that_is_not_enrolled_is_claimed(server: Whole) -> None:
    device = server.device()

    assert (await device.connect()).status_code == 400

    certificate = device.identity.fingerprint
    line = await line_of(server, kind="unknown_device", certificate_sha256=certificate)
    assert (line["claimed"], "device" in line) == (True, False)


async def test_without_a_certificate_the_address_is_claimed(server: Whole) -> None:
    head = "x-forwarded-for: 192.0.2.77\r\n"

    assert await send(server, "/mdm/connect", head, b"hello") == 400

    line = await line_of(server, address="192.0.2.77")
    assert (line["claimed"], line["kind"], "subject" in line) == (True, "signature", False)


async def test_a_body_that_never_ends_is_claimed(server: Whole) -> None:
    head = "PUT /mdm/connect HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.78\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", server.process.port)
    writer.write(f"{head}content-length: 100\r\n\r\n<plist>".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    line = await line_of(server, address="192.0.2.78")
    assert (line["claimed"], line["status"], line["kind"]) == (True, 503, "overtaken")


async def test_a_process_that_has_just_started_names_the_device(tmp_path: Path) -> None:
    async with whole_server(tmp_path) as server:
        device = await server.enrolled()
        assert server.process.terminate() == 0
        await asyncio.to_thread(server.process.start)

        assert (await device.send("/mdm/connect", b"hello")).status_code == 400

        assert (await line_of(server, device=device.id))["kind"] == "plist"
        assert (await device.refusals())[0]["reason"] == "plist"


async def test_the_end_of_a_process_tells_and_keeps_every_refusal(tmp_path: Path) -> None:
    async with whole_server(tmp_path) as server:
        device = await server.enrolled()
        for _ in range(40):
            assert (await device.send("/mdm/connect", b"hello")).status_code == 400
            assert (await device.send("/mdm/checkin", b"", signature="")).status_code == 400

        assert server.process.terminate() == 0

        counts = [line["count"] for line in server.log_lines("device_refused")]
        assert sum(counts) == 80
        assert len(counts) <= 4
        await asyncio.to_thread(server.process.start)
        assert [each["count"] for each in await device.refusals()] == [40]
