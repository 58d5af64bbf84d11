"""One challenge gives one device its certificates: no client hoards them for others, or by the hundred."""

import asyncio
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus
from shared.security.identity import fingerprint_of
from tests.support.harness.scep import RENEWAL_REQ, Client, Reply, csr, key_number
from tests.support.scep_world import ScepWorld

BAD_REQUEST, BAD_CERT_ID = "2", "4"
DAY = timedelta(days=1)
MOST = 5


async def renewal(world: ScepWorld, old: Client, transaction: str, number: int = 1) -> Reply:
    message = old.request(csr(key_number(number)), kind=RENEWAL_REQ, transaction=transaction)
    return old.read(await world.server.operate(message))


def bind(world: ScepWorld, client: Client, device: str = "MAC") -> None:
    """The device authenticates with it."""
    key = EnrollmentKey(id=device, device=device, udid=device)
    certificate = fingerprint(client)
    world.enrollments.add(Enrollment(key, EnrollmentStatus.ENROLLED, certificate=certificate))


def fingerprint(client: Client) -> str:
    assert client.certificate is not None
    return fingerprint_of(client.certificate.public_bytes(Encoding.DER))


async def test_a_certificate_that_no_device_has_bound_is_not_renewed() -> None:
    world = ScepWorld()
    old = await world.enrolled()

    reply = await renewal(world, old, "r")

    assert (reply.is_success, reply.fail_info) == (False, BAD_CERT_ID)
    assert len(world.issued.rows) == 1
    bind(world, old)
    assert (await renewal(world, old, "r")).is_success


@pytest.mark.parametrize("bound", [{"udid": "MAC"}, {"serial_number": "C02"}])
async def test_a_certificate_for_one_device_is_renewed_before_the_device_has_bound_it(
    bound: dict[str, str],
) -> None:
    world = ScepWorld()

    assert (await renewal(world, await world.enrolled(**bound), "r")).is_success


async def test_a_certificate_that_scep_did_not_give_out_is_renewed_for_its_device_only() -> None:
    world = ScepWorld()
    key = key_number(0)
    made = world.certified(key.public_key())
    old = Client(world.ca, key, made)

    assert (await renewal(world, old, "r")).fail_info == BAD_CERT_ID
    bind(world, old)
    assert (await renewal(world, old, "r")).is_success


async def test_a_certificate_is_renewed_five_times_a_day() -> None:
    world = ScepWorld()
    old = await world.enrolled(udid="MAC")

    replies = [await renewal(world, old, f"r{number}") for number in range(MOST + 1)]

    assert [reply.is_success for reply in replies] == [True] * MOST + [False]
    assert replies[-1].fail_info == BAD_REQUEST
    assert len(world.issued.rows) == 1 + MOST
    assert world.metric("scep_refused", reason="limit") == 1
    assert (await renewal(world, old, "r0")).is_success  # a repetition is no new one
    world.clock.advance(DAY + timedelta(seconds=1))
    assert (await renewal(world, old, "r9")).is_success


async def test_of_many_renewals_at_once_five_are_given_out_whatever_is_repeated() -> None:
    world = ScepWorld()
    old = await world.enrolled(udid="MAC")
    asked = [f"r{number}" for number in range(3 * MOST)]

    for _ in range(2):
        replies = await asyncio.gather(*(renewal(world, old, each) for each in asked))
        given = {reply.certificate for reply in replies if reply.certificate is not None}
        assert len(given) == MOST
