"""What is read of a CMS by hand is what asn1crypto reads of it."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from asn1crypto import parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.errors import BadRequest
from shared.security.asn1 import der
from shared.security.asn1.ber import Unreadable, check_values, split
from shared.security.signature.cms import MOST_SIGNED
from shared.security.signature.cms_forms import (
    SignedData,
    Unusual,
    read_any,
    read_signed_data,
    read_usual,
)
from tests.support.harness.identities import FleetAuthority, indefinite
from tests.unit.shared.security.test_lean_cms import (
    CAPABILITIES,
    DIGEST,
    TYPE,
    attribute,
    message,
)

BODY = b"<plist/>"
AUTHORITY = FleetAuthority()
RSA = AUTHORITY.issue("rsa device")
EC = AUTHORITY.issue("ec device", kind="ec")


def with_capabilities(count: int) -> bytes:
    """A message that says what its signer can, as OpenSSL's do; nobody signed it."""
    each = der.sequence(der.oid("1.2.3.4"))
    return message(TYPE + DIGEST + attribute(CAPABILITIES, der.sequence(*[each] * count)))


MOST_CAPABILITIES = (MOST_SIGNED - 12) // 2
USUAL = [
    RSA.cms(BODY),
    RSA.cms(BODY, digest="sha1"),
    RSA.cms(BODY, attributes=True),
    EC.cms(BODY),
    EC.cms(BODY, attributes=True),
    with_capabilities(8),
    with_capabilities(MOST_CAPABILITIES),
]


def parts_of(read: SignedData) -> list[object]:
    attributes = read.attributes() if read.attributes else None
    shown = [read.certificates, read.signer, read.digest, read.algorithm.dump(), read.signature]
    shown += [read.content, read.content_type, attributes is None]
    if attributes is not None:
        shown += [attributes.digests, attributes.types, attributes.times(), attributes.received]
        shown.append(outcome_of(attributes.in_order))
    return shown


def outcome_of(function: Callable[[], bytes]) -> object:
    try:
        return function()
    except Exception as exc:  # noqa: BLE001 - whatever asn1crypto raises, both must raise it
        return type(exc)


@pytest.mark.parametrize("encoded", USUAL)
def test_the_usual_forms_are_read_by_hand(encoded: bytes):
    assert parts_of(read_usual(encoded)) == parts_of(read_any(encoded))


def test_an_unusual_form_is_left_to_asn1crypto():
    encoded = indefinite(RSA.cms(BODY))

    with pytest.raises(Unusual):
        read_usual(encoded)
    assert read_signed_data(encoded).certificates == [RSA.der]


def test_by_hand_and_by_asn1crypto_attributes_have_the_same_bound():
    encoded = with_capabilities(MOST_CAPABILITIES + 1)

    with pytest.raises(Unreadable):
        read_usual(encoded)
    attributes = read_any(encoded).attributes
    assert attributes is not None
    with pytest.raises(BadRequest):
        attributes()


def headers_of(encoded: bytes, at: int = 0, depth: int = 0) -> list[int]:
    """Where each value begins, those inside others too."""
    found = []
    for each in split(encoded, 64):
        found.append(at)
        inside = len(each.raw) - len(each.content)
        if each.is_constructed and depth < 12:
            found += headers_of(each.content, at + inside, depth + 1)
        at += len(each.raw)
    return found


HEADERS = {encoded: headers_of(encoded) for encoded in USUAL}
WORTH_TRYING = [0, 1, 2, 3, 4, 5, 6, 0x17, 0x18, 0x24, 0x30, 0x31, 0x80, 0x81, 0xA0, 0xA1, 0xFF]
changes = st.tuples(
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.sampled_from(["set", "add", "delete", "insert"]),
    st.sampled_from(WORTH_TRYING) | st.integers(0, 255),
)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(original=st.sampled_from(USUAL), made=st.lists(changes, min_size=1, max_size=3))
def test_nothing_is_read_by_hand_that_asn1crypto_reads_otherwise(
    original: bytes, made: list[tuple[int, int, str, int]]
):
    headers, changed = HEADERS[original], bytearray(original)
    for where, beyond, how, value in made:
        at = min(headers[where % len(headers)] + beyond, len(changed) - 1)
        if how == "set":
            changed[at] = value
        elif how == "add":
            changed[at] = (changed[at] + value) % 256
        elif how == "delete":
            del changed[at]
        else:
            changed.insert(at, value)
    try:
        by_hand = read_usual(bytes(changed))
    except (Unusual, ValueError):
        return
    assert parts_of(by_hand) == parts_of(read_any(bytes(changed)))


tags = st.sampled_from([0x02, 0x04, 0x1F, 0x24, 0x30, 0x3F, 0x9F, 0xA0, 0xFF])
lengths = st.sampled_from(
    [b"\x00", b"\x02", b"\x80", b"\x81\x01", b"\x82\x00\x02", b"\x84", b"\xff"]
)
pieces = st.tuples(tags, lengths, st.binary(max_size=4)).map(lambda p: bytes([p[0]]) + p[1] + p[2])


@settings(max_examples=1500)
@given(encoded=st.lists(pieces, max_size=6).map(b"".join) | st.binary(max_size=20))
def test_values_are_split_as_asn1crypto_splits_them(encoded: bytes):
    found, at = [], 0
    with suppress(Unreadable):
        for element in split(encoded, 100):
            found.append(element)
    for kind, is_constructed, raw, content in found:
        class_, constructed, tag, header, inside, trailer = parser.parse(encoded[at:])
        assert (kind, is_constructed, content) == ((class_, tag), bool(constructed), inside)
        assert raw == header + inside + trailer
        at += len(raw)
    if at < len(encoded):  # what was not split is what the parser does not read
        with pytest.raises(ValueError):
            parser.parse(encoded[at:])


@settings(max_examples=1500)
@given(
    encoded=st.recursive(
        st.lists(pieces, max_size=3).map(b"".join),
        lambda inside: st.tuples(st.sampled_from(["30", "a0", "indefinite"]), inside, inside).map(
            lambda made: (
                b"\x30\x80" + made[1] + made[2] + bytes(2)
                if made[0] == "indefinite"
                else der.element(int(made[0], 16), made[1], made[2])
            )
        ),
        max_leaves=8,
    ),
    most=st.integers(0, 12),
)
def test_no_value_is_hidden_from_the_count(encoded: bytes, most: int):
    """In a form that asn1crypto reads; in any other it stops before it is slow."""
    with suppress(ValueError):
        check_values(encoded, most, 8)
        assert count_of(encoded) <= most


def count_of(encoded: bytes) -> int:
    """The values that asn1crypto finds, those inside others too."""
    found = 0
    while encoded:
        _, is_constructed, _, header, content, trailer = parser.parse(encoded)
        found += 1 + (count_of(content) if is_constructed else 0)
        encoded = encoded[len(header) + len(content) + len(trailer) :]
    return found


def test_no_more_values_are_split_than_are_asked_for():
    assert len(list(split(b"\x05\x00" * 3, 3))) == 3
    with pytest.raises(Unreadable):
        list(split(b"\x05\x00" * 4, 3))
