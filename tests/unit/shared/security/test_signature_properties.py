"""Properties of signatures: whatever is changed, nobody passes for another."""

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.errors import BadRequest
from shared.security.identity import DeviceIdentities
from tests.support.fakes.clock import FakeClock
from tests.support.harness.identities import FleetAuthority, indefinite
from tests.support.signatures import verify

BODY = b"<plist><dict><key>UDID</key><string>A</string></dict></plist>\n"
AUTHORITY = FleetAuthority()
RSA = AUTHORITY.issue("rsa device")
EC = AUTHORITY.issue("ec device", kind="ec")


def header(envelope_der: bytes) -> str:
    return base64.b64encode(envelope_der).decode()


VARIANTS = [
    RSA.cms(BODY),
    RSA.cms(BODY, attributes=True),
    EC.cms(BODY),
    EC.cms(BODY, attributes=True),
    indefinite(RSA.cms(BODY, digest="sha1")),
]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    original=st.sampled_from(VARIANTS),
    at=st.integers(0, 2000),
    flip=st.integers(1, 255),
    body=st.sampled_from([BODY, BODY[:-1]]),
)
def test_a_tampered_signature_never_passes_for_another_device(
    original: bytes, at: int, flip: int, body: bytes
) -> None:
    tampered = bytearray(original)
    tampered[at % len(tampered)] ^= flip
    identities = DeviceIdentities([AUTHORITY.certificate], FakeClock())
    try:
        fingerprint = identities.identify(verify(header(bytes(tampered)), body))
    except BadRequest:
        return
    # Some bytes decide nothing (a version, the list of digests): then it is still the same proof.
    assert fingerprint in {RSA.fingerprint, EC.fingerprint}
    assert body == BODY


@settings(max_examples=300, deadline=None)
@given(signature=st.binary(max_size=400) | st.binary(max_size=60).map(lambda b: b"\x30\x80" + b))
def test_any_bytes_are_refused(signature: bytes) -> None:
    with pytest.raises(BadRequest):
        verify(header(signature), BODY)


@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=300), attributes=st.booleans(), ec=st.booleans())
def test_what_was_signed_is_accepted_and_nothing_else(
    body: bytes, attributes: bool, ec: bool
) -> None:
    identity = EC if ec else RSA
    signature = identity.sign(body, attributes=attributes)

    assert verify(signature, body) == identity.der
    with pytest.raises(BadRequest):
        verify(signature, body + b"\x00")
