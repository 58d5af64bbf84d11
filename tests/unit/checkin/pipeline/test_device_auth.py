"""Which requests are judged at once, and which in a thread."""

import base64

import pytest

from services.checkin.answers import DeviceRefused
from services.checkin.pipeline.device_auth import SMALL_BODY, SMALL_HEADER, DeviceAuthentication
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import Unavailable
from shared.security.identity import DeviceIdentities
from tests.support.fakes.clock import FakeClock
from tests.support.harness.identities import DeviceIdentity, FleetAuthority, envelope, signer_info
from tests.unit.shared.security.test_lean_cms import CONTENT, NOT_AT_ONCE

OURS = FleetAuthority("Our CA")
BODY = b"a body"


def authentication(*, threads_are_busy: bool, identities: DeviceIdentities) -> DeviceAuthentication:
    most_waiting = 0 if threads_are_busy else 9
    return DeviceAuthentication(identities, HeavyWork("messages", most_waiting=most_waiting))


def signed(device: DeviceIdentity, *others: DeviceIdentity) -> dict[str, list[str]]:
    """The headers of a message that brings other certificates with it."""
    cms = envelope([signer_info(device, BODY, "sha256")], [device, *others])
    return {"mdm-signature": [base64.b64encode(cms).decode()]}


async def test_a_certificate_that_came_alone_waits_for_no_thread() -> None:
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    device = OURS.issue()
    busy = authentication(threads_are_busy=True, identities=identities)

    certificate, _ = await busy.prove(signed(device), None, BODY)

    assert certificate.fingerprint == device.fingerprint


@pytest.mark.parametrize("kind", ["rsa", "ec"])
async def test_what_comes_with_others_waits_for_no_thread_once_it_is_known(kind: str) -> None:
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    device = OURS.issue(kind="ec" if kind == "ec" else "rsa")
    headers = signed(device, OURS.issue())

    free = authentication(threads_are_busy=False, identities=identities)
    busy = authentication(threads_are_busy=True, identities=identities)

    with pytest.raises(Unavailable):  # it is not known yet
        await busy.prove(headers, None, BODY)
    first, _ = await free.prove(headers, None, BODY)
    assert (await busy.prove(headers, None, BODY))[0] is first


@pytest.mark.parametrize(
    ("body", "padding"), [(bytes(SMALL_BODY + 1), 0), (BODY, SMALL_HEADER)], ids=["body", "header"]
)
async def test_a_large_request_is_judged_in_a_thread(body: bytes, padding: int) -> None:
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    device = OURS.issue()
    identities.examine(device.der)
    headers = {"mdm-signature": [device.sign(body) + " " * padding]}

    free = authentication(threads_are_busy=False, identities=identities)
    busy = authentication(threads_are_busy=True, identities=identities)

    certificate, _ = await free.prove(headers, None, body)
    assert certificate.fingerprint == device.fingerprint
    with pytest.raises(Unavailable):
        await busy.prove(headers, None, body)


async def test_a_small_signature_that_is_slow_to_read_waits_for_a_thread() -> None:
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    free = authentication(threads_are_busy=False, identities=identities)
    busy = authentication(threads_are_busy=True, identities=identities)

    for slow in NOT_AT_ONCE.values():
        headers = {"mdm-signature": [base64.b64encode(slow).decode()]}
        with pytest.raises(Unavailable):
            await busy.prove(headers, None, CONTENT)
        with pytest.raises(DeviceRefused):
            await free.prove(headers, None, CONTENT)
        assert free.claimed(headers, None) == (None, False)


async def test_what_a_thread_refuses_is_refused_with_its_reason() -> None:
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    stranger = FleetAuthority().issue()
    headers = {"mdm-signature": [stranger.sign(BODY)]}
    auth = authentication(threads_are_busy=False, identities=identities)

    with pytest.raises(DeviceRefused, match="not one of a trusted CA"):
        await auth.prove(headers, None, BODY)
    with pytest.raises(DeviceRefused, match="does not match the body"):
        await auth.prove(headers, None, bytes(SMALL_BODY + 1))


def test_what_a_header_shows_is_read_or_nothing() -> None:
    device = OURS.issue()
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    judge = authentication(threads_are_busy=False, identities=identities)
    good = signed(device)["mdm-signature"][0]

    found, is_proven = judge.claimed({"mdm-signature": [good]}, None)

    assert found is not None
    assert (found.fingerprint, is_proven) == (device.fingerprint, False)
    assert found.subject == device.certificate.subject.rfc4514_string()
    bad: list[list[str]] = [[], [good, good], [""], ["%%%"], ["MAA="], [good + "A" * SMALL_HEADER]]
    assert [judge.claimed({"mdm-signature": each}, None)[0] for each in bad] == [None] * len(bad)


def test_no_bytes_of_a_header_are_too_odd_to_be_refused() -> None:
    identities = DeviceIdentities([OURS.certificate], FakeClock())
    judge = authentication(threads_are_busy=False, identities=identities)
    good = base64.b64decode(signed(OURS.issue())["mdm-signature"][0])

    for at in range(0, len(good), 3):
        for value in (0, 0x80):
            odd = base64.b64encode(good[:at] + bytes([value]) + good[at + 1 :]).decode()
            assert judge.claimed({"mdm-signature": [odd]}, None)[1] is False
