"""A device whose certificate is not strict DER, over HTTP: however the form around it is written, it is one
identity, and so is what it was replaced by or blocked with. And so for one that is strict within.
"""

import base64
import plistlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding

from shared.security.asn1 import der
from tests.integration.whole import TOPIC, Whole, new_id, whole_server
from tests.support.harness.odd_certificates import (
    CONSTRAINTS,
    FALSE,
    FOR_CLIENTS,
    Form,
    Odd,
    OddAuthority,
    extension,
    indefinite,
    long_form,
)
from tests.support.harness.strangers import CurveKey

pytestmark = pytest.mark.asyncio(loop_scope="module")

CA = OddAuthority()
KINDS = {
    "not strict": Odd(extensions=(extension(CONSTRAINTS, der.sequence(), FALSE), FOR_CLIENTS)),
    "strict": Odd(),
}
FORMS: list[Form] = [der.sequence, long_form, indefinite]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    folder = tmp_path_factory.mktemp("lenient")
    (folder / "odd-ca.pem").write_bytes(CA.certificate().public_bytes(Encoding.PEM))
    async with whole_server(folder, {"MDM_DEVICE_CA": str(folder / "odd-ca.pem")}) as found:
        yield found


@dataclass
class OddDevice:
    """Its certificate is written anew in another form for each message."""

    whole: Whole
    odd: Odd
    udid: str

    async def send(self, path: str, form: Form, **keys: object) -> int:
        body = plistlib.dumps({"UDID": self.udid, **keys})
        signer = CA.issue(replace(self.odd, outer=form))
        headers = {"Mdm-Signature": base64.b64encode(signer.cms(body)).decode()}
        url = self.whole.url_of(path)
        answer: httpx.Response = await self.whole.http.put(url, content=body, headers=headers)
        return answer.status_code

    async def authenticate(self, form: Form = der.sequence) -> int:
        return await self.send("/mdm/checkin", form, MessageType="Authenticate", Topic=TOPIC)

    async def idle(self) -> list[int]:
        """In every form."""
        return [await self.send("/mdm/connect", form, Status="Idle") for form in FORMS]


def odd_device(whole: Whole, kind: str) -> OddDevice:
    return OddDevice(whole, replace(KINDS[kind], key=CurveKey()), new_id())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
async def test_a_bound_certificate_is_heard_in_every_form_and_no_others_device(
    server: Whole, kind: str, form: Form
) -> None:
    device = odd_device(server, kind)
    thief = replace(device, udid=new_id())

    assert await device.authenticate(form) == 200
    assert await device.idle() == [200] * 3
    assert [await thief.authenticate(each) for each in FORMS] == [400] * 3
    assert await thief.idle() == [400] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_replaced_certificate_is_refused_in_every_form(server: Whole, kind: str) -> None:
    old = odd_device(server, kind)
    new = replace(odd_device(server, kind), udid=old.udid)
    assert [await old.authenticate(), await new.authenticate()] == [200, 200]

    assert [await old.authenticate(form) for form in FORMS] == [400] * 3
    assert await old.idle() == [400] * 3
    assert await new.idle() == [200] * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_blocked_device_is_blocked_in_every_form(server: Whole, kind: str) -> None:
    device = odd_device(server, kind)
    assert await device.authenticate() == 200
    await server.api("POST", f"/v1/devices/{device.udid}/block")

    assert await device.idle() == [401] * 3
