"""Mutated SCEP messages: always an answer or BadRequest, never anything else, and nobody gets a
certificate that the message did not ask for."""

import asyncio
import contextlib
import time
from functools import cache

from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.checkin.scep.routes import from_query
from shared.domain.errors import BadRequest, TooLarge
from shared.security.scep.message import read_pki_message
from tests.support.harness.scep import (
    RENEWAL_REQ,
    Client,
    Shape,
    csr,
    envelope,
    indefinite,
    key_number,
)
from tests.support.scep_world import STATIC, ScepWorld

GENEROUS = 2.0
"""Seconds of CPU for one small message: a bound against endless work, not a measurement."""


@cache
def client() -> Client:
    return ScepWorld().client()


@cache
def seeds() -> list[bytes]:
    request = csr(client().key, STATIC)
    plain = client().request(request)
    return [
        plain,
        indefinite(plain),
        client().request(request, shape=Shape("des", "sha1")),
        client().request(request, kind=RENEWAL_REQ),
    ]


def mutation(draw: st.DrawFn, seed: bytes) -> bytes:
    body = bytearray(seed)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(body)))
        piece = draw(st.binary(max_size=4) | st.just(bytes(body[: draw(st.integers(0, 60))])))
        match draw(st.sampled_from(["insert", "delete", "replace"])):
            case "insert":
                body[at:at] = piece
            case "delete":
                del body[at : at + len(piece)]
            case _:
                body[at : at + len(piece)] = piece
    return bytes(body)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    return mutation(draw, draw(st.sampled_from(seeds())))


@st.composite
def signed_anew(draw: st.DrawFn) -> bytes:
    """Mutated inside, and then signed: what the signature's check lets through."""
    seed = draw(st.sampled_from(["envelope", "request"]))
    request = csr(client().key, STATIC)
    if seed == "request":
        return client().request(mutation(draw, request))
    return client().signed(mutation(draw, envelope(request, client().ca)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=mutated() | signed_anew() | st.binary(max_size=200))
def test_a_mutated_message_is_answered_or_refused(body: bytes) -> None:
    world = ScepWorld(static=STATIC)
    started = time.thread_time()
    with contextlib.suppress(BadRequest):
        read_pki_message(body)
        reply = client().read(asyncio.run(world.server.operate(body)))
        assert reply.is_success or reply.fail_info in set("01234")
    assert time.thread_time() - started < GENEROUS
    for issued in world.issued.rows.values():
        # Whatever else was changed: the key is the one that the sender holds.
        certificate = x509.load_der_x509_certificate(issued.certificate)
        assert certificate.public_key() == key_number(0).public_key()


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=300))
def test_any_text_in_the_query_is_bytes_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest, TooLarge):
        from_query(text)


def test_the_seeds_are_good() -> None:
    assert all(read_pki_message(seed).transaction_id for seed in seeds())
