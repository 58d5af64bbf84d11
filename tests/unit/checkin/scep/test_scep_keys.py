"""The keys of SCEP: who asks, and what gets a certificate."""

import time

import pytest
from asn1crypto import csr as pkcs10
from cryptography.hazmat.primitives.serialization import Encoding

from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus
from shared.security.asn1 import der
from shared.security.identity import fingerprint_of
from tests.support.harness.scep import RENEWAL_REQ, Client, Reply, csr, key_number
from tests.support.harness.strangers import OddRsa, SigningKey, name
from tests.support.scep_world import STATIC, ScepWorld

BAD_MESSAGE_CHECK, BAD_REQUEST = "1", "2"
SECONDS = 0.1


async def asked(world: ScepWorld, client: Client, request: bytes, kind: str = RENEWAL_REQ) -> Reply:
    return client.read(await world.server.operate(client.request(request, kind=kind)))


@pytest.mark.parametrize(("bits", "is_issued"), [(4096, True), (4104, False)])
async def test_rsa_keys_up_to_4096_bits_get_a_certificate(bits: int, is_issued: bool) -> None:
    world = ScepWorld(static=STATIC)
    client = Client(world.ca, key_number(0, bits))

    reply = await world.ask(client, STATIC)

    assert reply.is_success is is_issued
    assert reply.fail_info == (None if is_issued else BAD_REQUEST)


async def test_a_larger_key_that_has_a_certificate_of_before_still_renews_it() -> None:
    world = ScepWorld()
    large = key_number(0, 5120)
    before = world.certified(large.public_key())
    client = Client(world.ca, large, before)
    fingerprint = fingerprint_of(before.public_bytes(Encoding.DER))
    key = EnrollmentKey(id="MAC", device="MAC", udid="MAC")
    world.enrollments.add(Enrollment(key, EnrollmentStatus.ENROLLED, certificate=fingerprint))

    reply = await asked(world, client, csr(key_number(1)))

    assert reply.is_success


def odd_request(key: SigningKey) -> bytes:
    """A certificate request for any key, with a good signature."""
    signed = der.sequence(der.integer(0), name("device"), key.public, der.element(der.CONTEXT_0))
    return der.sequence(signed, key.algorithm, der.element(0x03, b"\0", key.sign(signed)))


@pytest.mark.parametrize(("bits", "exponent_bits"), [(3072, 3060), (3072, 65), (16384, 17)])
async def test_the_signature_of_a_requests_own_key_is_not_checked_where_that_is_dear(
    bits: int, exponent_bits: int
) -> None:
    world = ScepWorld(static=STATIC)
    request = odd_request(OddRsa.make(bits, exponent_bits))
    assert pkcs10.CertificationRequest.load(request).native  # it can be read
    client = world.client()
    message = client.request(request)

    began = time.process_time()
    reply = client.read(await world.server.operate(message))

    assert time.process_time() - began < SECONDS
    assert reply.fail_info == BAD_MESSAGE_CHECK
