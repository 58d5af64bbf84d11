"""A proxy's word for a device's certificate: heard from a trusted proxy only (over HTTP)."""

import base64
import plistlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.integration.whole import Whole, new_id, whole_server
from tests.support.harness.http1 import Answer, Connection, request_bytes
from tests.support.harness.identities import DeviceIdentity, FleetAuthority

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADER = "X-Client-Cert"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    settings = {"MDM_CLIENT_CERT_HEADER": HEADER, "MDM_TRUSTED_PROXIES": "10.9.9.9, 127.0.0.0/28"}
    async with whole_server(tmp_path_factory.mktemp("proxy"), settings) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def without_proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    settings = {"MDM_CLIENT_CERT_HEADER": HEADER, "MDM_TRUSTED_PROXIES": "10.9.9.9"}
    async with whole_server(tmp_path_factory.mktemp("direct"), settings) as found:
        yield found


def rfc9440(identity: DeviceIdentity) -> str:
    return f":{base64.b64encode(identity.der).decode()}:"


def escaped_pem(identity: DeviceIdentity) -> str:
    return quote(identity.pem.decode())


async def authenticate(whole: Whole, *lines: str, udid: str = "") -> Answer:
    """An Authenticate with these header lines, which claim whatever they claim."""
    body = plistlib.dumps({"MessageType": "Authenticate", "UDID": udid or new_id()})
    head = "".join(f"{line}\r\n" for line in lines)
    async with Connection("127.0.0.1", whole.process.port) as connection:
        return await connection.send(request_bytes("PUT", "/mdm/checkin", head, body))


@pytest.mark.parametrize("form", [rfc9440, escaped_pem])
async def test_a_trusted_proxys_certificate_needs_no_signature(
    behind_proxy: Whole, form: Callable[[DeviceIdentity], str]
) -> None:
    identity = behind_proxy.authority.issue()
    udid = new_id()

    answer = await authenticate(behind_proxy, f"{HEADER.lower()}: {form(identity)}", udid=udid)

    assert (answer.status, answer.body) == (200, b"")
    assert len(await behind_proxy.events_of(udid, 1)) == 1


async def test_a_device_that_signs_is_heard_behind_a_proxy_too(behind_proxy: Whole) -> None:
    assert (await behind_proxy.device().authenticate()).status_code == 200


async def test_a_strangers_certificate_is_refused_though_a_proxy_brings_it(
    behind_proxy: Whole,
) -> None:
    stranger = FleetAuthority().issue()

    answer = await authenticate(behind_proxy, f"{HEADER}: {rfc9440(stranger)}")

    assert (answer.status, answer.body) == (400, b"")


async def test_two_certificates_in_headers_are_refused(behind_proxy: Whole) -> None:
    lines = [f"{HEADER}: {rfc9440(behind_proxy.authority.issue())}" for _ in range(2)]

    answer = await authenticate(behind_proxy, *lines)

    assert (answer.status, answer.body) == (400, b"")


async def test_a_folded_header_is_refused(behind_proxy: Whole) -> None:
    value = rfc9440(behind_proxy.authority.issue())

    answer = await authenticate(behind_proxy, f"{HEADER}: {value[:100]}\r\n {value[100:]}")

    assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize("more", ["x-forwarded-for: 10.9.9.9", "forwarded: for=10.9.9.9"])
async def test_whoever_is_no_trusted_proxy_is_not_believed(without_proxy: Whole, more: str) -> None:
    value = rfc9440(without_proxy.authority.issue())

    answer = await authenticate(without_proxy, f"{HEADER}: {value}", more)

    assert (answer.status, answer.body) == (400, b"")


async def test_a_header_of_no_proxy_does_not_outweigh_the_signature(without_proxy: Whole) -> None:
    device = await without_proxy.enrolled()
    other = without_proxy.authority.issue()
    body = plistlib.dumps({"Status": "Idle", **device.ids})
    lines = f"{HEADER}: {rfc9440(other)}\r\nmdm-signature: {device.identity.sign(body)}\r\n"

    async with Connection("127.0.0.1", without_proxy.process.port) as connection:
        answer = await connection.send(request_bytes("PUT", "/mdm/connect", lines, body))

    assert answer.status == 200


@pytest.mark.parametrize("claimed", ["", f"{HEADER}: \r\n"], ids=["", "beside an empty header"])
async def test_a_certificate_in_a_trailer_is_refused(behind_proxy: Whole, claimed: str) -> None:
    """A proxy that strips the header may let a trailer pass."""
    body = plistlib.dumps({"MessageType": "Authenticate", "UDID": new_id()})
    request = (
        b"PUT /mdm/checkin HTTP/1.1\r\nhost: mdm\r\n%stransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\n%s: %s\r\n\r\n"
    )
    certificate = rfc9440(behind_proxy.authority.issue()).encode()
    filled = request % (claimed.encode(), len(body), body, HEADER.encode(), certificate)
    async with Connection("127.0.0.1", behind_proxy.process.port) as connection:
        answer = await connection.send(filled)

    assert (answer.status, answer.body) == (400, b"")
