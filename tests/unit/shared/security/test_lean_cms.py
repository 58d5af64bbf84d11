"""A CMS that says too much about its signer is refused before it is read."""

import base64
import time

import pytest

from shared.domain.errors import BadRequest
from shared.security.asn1 import der
from shared.security.scep.message import read_pki_message
from shared.security.signature.cms import ALWAYS_LEAN, is_bulky
from shared.security.signature.signers import open_signed, signer_of
from tests.support.harness.identities import FleetAuthority, envelope, signer_info

OURS = FleetAuthority("Our CA")
DEVICE = OURS.issue()
DATA = der.oid("1.2.840.113549.1.7.1")
SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
CONTENT = b"content"


def message(attributes: bytes = b"", *, algorithms: bytes = b"") -> bytes:
    """A CMS that nobody signed, with anything for attributes."""
    sha256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
    rsa = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
    signer = der.sequence(
        der.integer(3),
        der.element(0x80, bytes(20)),
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


@pytest.mark.parametrize("size", [0, 40_000])
@pytest.mark.parametrize("certificates", [1, 9])
def test_much_content_and_many_certificates_are_not_bulky(size: int, certificates: int) -> None:
    content = CONTENT + bytes(size)
    info = signer_info(DEVICE, content, "sha256")
    chain = [OURS.issue() for _ in range(certificates - 1)]
    encoded = envelope([info], [DEVICE, *chain], content=content)

    assert not is_bulky(encoded)
