"""A CMS that says too much about its signer is refused before it is read."""

import base64
import hashlib
import time

import pytest

from shared.domain.errors import BadRequest
from shared.security.asn1 import der
from shared.security.scep.message import read_pki_message
from shared.security.signature.cms import ALWAYS_LEAN, is_bulky
from shared.security.signature.cms_forms import NotAtOnce
from shared.security.signature.signers import claimed_signer, open_signed, signer_of
from tests.support.harness.identities import FleetAuthority, envelope, signer_info

OURS = FleetAuthority("Our CA")
DEVICE = OURS.issue()
DATA = der.oid("1.2.840.113549.1.7.1")
SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
CONTENT = b"content"
SIGNER = signer_info(DEVICE, CONTENT, "sha256")["sid"].dump()


def message(attributes: bytes = b"", *, algorithms: bytes = b"") -> bytes:
    """A CMS that nobody signed, with anything for attributes."""
    sha256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
    rsa = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
    signer = der.sequence(
        der.integer(3),
        SIGNER,
        sha256,
        der.element(der.CONTEXT_0, attributes),
        rsa,
        der.octet_string(bytes(256)),
    )
    signed = der.sequence(
        der.integer(3),
        der.element(der.SET, sha256, algorithms),
        der.sequence(DATA, der.element(der.CONTEXT_0, der.octet_string(CONTENT))),
        der.element(der.CONTEXT_0, DEVICE.der),
        der.element(der.SET, signer),
    )
    return der.sequence(SIGNED_DATA, der.element(der.CONTEXT_0, signed))


def attribute(name: bytes, values: bytes) -> bytes:
    return der.sequence(name, der.element(der.SET, values))


BULKY = {
    "values": message(attribute(der.oid("1.2.3.4"), der.NULL * 14_000)),
    "attributes": message(attribute(der.oid("1.2.3.4"), b"") * 2_800),
    "a name": message(attribute(der.element(der.OBJECT, b"\xff" * 29_000 + b"\x01"), der.NULL)),
    "algorithms": message(algorithms=der.sequence(der.oid("1.2.3.4")) * 3_000),
    "parts": der.sequence(SIGNED_DATA, *[der.NULL] * 14_000),
    "cut off": message()[:2] + bytes(ALWAYS_LEAN),
}


@pytest.mark.parametrize("encoded", BULKY.values(), ids=BULKY)
def test_what_is_bulky_is_refused_everywhere_and_at_once(encoded: bytes) -> None:
    assert is_bulky(encoded)
    began = time.process_time()

    with pytest.raises(BadRequest):
        signer_of(base64.b64encode(encoded), CONTENT)
    with pytest.raises(BadRequest):
        open_signed(encoded)
    with pytest.raises(BadRequest):
        read_pki_message(encoded)

    assert time.process_time() - began < 0.1  # up to half a second, when it is read


CAPABILITIES = der.oid("1.2.840.113549.1.9.15")
SMALL_VALUE, LONG_OBJECT = b"\x04\x00", der.element(der.OBJECT, b"\xff" * 64 + b"\x01")
TYPE = attribute(der.oid("1.2.840.113549.1.9.3"), DATA)
DIGEST = attribute(
    der.oid("1.2.840.113549.1.9.4"), der.octet_string(hashlib.sha256(CONTENT).digest())
)


def unknown(*values: bytes) -> bytes:
    return message(TYPE + DIGEST + attribute(der.oid("1.2.3.4"), b"".join(values)))


def nested(depth: int, value: bytes) -> bytes:
    for _ in range(depth):
        value = der.sequence(value)
    return value


SLOW = {
    "values": unknown(SMALL_VALUE * 900),
    "values inside others": unknown(*[der.sequence(SMALL_VALUE * 20)] * 40),
    "values beside what is out of bounds": unknown(b"\x30\x02\x04\x7f", SMALL_VALUE * 900),
    "zeros": unknown(bytes(1_800)),
    "depth": unknown(nested(400, SMALL_VALUE)),
    "indefinite lengths": unknown(b"\x30\x80\x00\x00" * 450),
    "attributes": message(
        b"".join(
            [TYPE, DIGEST] + [attribute(der.oid(f"1.2.3.{n}"), SMALL_VALUE * 30) for n in range(24)]
        )
    ),
    "capabilities": message(
        TYPE + DIGEST + attribute(CAPABILITIES, der.sequence(SMALL_VALUE * 900))
    ),
    "a name": unknown(LONG_OBJECT),
    "bits": unknown(der.element(0x03, bytes(1_800))),
    "the name of an attribute": message(TYPE + DIGEST + attribute(LONG_OBJECT, SMALL_VALUE)),
}


@pytest.mark.parametrize("encoded", SLOW.values(), ids=SLOW)
def test_a_small_message_with_slow_attributes_is_refused_before_they_are_read(
    encoded: bytes,
) -> None:
    assert len(encoded) <= ALWAYS_LEAN

    with pytest.raises(BadRequest, match="too much in its signed attributes"):
        signer_of(base64.b64encode(encoded), CONTENT)


def in_indefinite_lengths(inside: bytes) -> bytes:
    """A CMS whose every level has an indefinite length, with anything behind its last one."""
    for tag in (0x31, 0x30, 0xA0):
        inside = bytes((tag, 0x80)) + inside + bytes(2)
    return b"\x30\x80" + SIGNED_DATA + inside + bytes(2)


NOT_AT_ONCE = {
    "values in indefinite lengths": in_indefinite_lengths(SMALL_VALUE * 900),
    "a name": der.sequence(der.element(der.OBJECT, b"\xff" * 2_000 + b"\x01")),
    **{name: SLOW[name] for name in ("values", "capabilities")},
}


@pytest.mark.parametrize("encoded", NOT_AT_ONCE.values(), ids=NOT_AT_ONCE)
def test_an_unusual_form_with_many_values_is_not_read_at_once(encoded: bytes) -> None:
    header = base64.b64encode(encoded).decode()

    with pytest.raises(NotAtOnce):
        signer_of(header, CONTENT, at_once=True)
    with pytest.raises(BadRequest):
        claimed_signer(header)
    with pytest.raises(BadRequest):
        signer_of(header, CONTENT)


@pytest.mark.parametrize("size", [0, 40_000])
@pytest.mark.parametrize("certificates", [1, 9])
def test_much_content_and_many_certificates_are_not_bulky(size: int, certificates: int) -> None:
    content = CONTENT + bytes(size)
    info = signer_info(DEVICE, content, "sha256")
    chain = [OURS.issue() for _ in range(certificates - 1)]
    encoded = envelope([info], [DEVICE, *chain], content=content)

    assert not is_bulky(encoded)
