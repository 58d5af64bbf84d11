"""Hostile and broken JSON: always BadRequest or a dictionary, always soon."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.apple.request.read_json import parse_json
from shared.domain.errors import BadRequest
from tests.support.command_requests import CATALOGUE

GUIDE_SAMPLE = b"""{
  "udid": "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD",
  "request_type": "DeviceInformation",
  "queries": ["UDID", "IsSupervised",],
}"""


def refused(raw: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_json(raw)
    return caught.value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{",
        b'{"a": 1} x',
        b'{"a": 1,}',
        b"{'a': 1}",
        b'{"a": tru}',
        b'{"a": 01}',
        b'{"a": "\x01"}',
        b'{"a": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"<plist/>",
        b"udid=a&request_type=b",
        GUIDE_SAMPLE,
    ],
)
def test_what_is_not_a_json_object_is_refused(raw: bytes) -> None:
    assert str(refused(raw)).startswith("the body is ")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused_with_their_path(number: str) -> None:
    refusal = refused(b'{"a": [1, {"b": %s}]}' % number.encode())
    assert [fault.path for fault in refusal.faults] == ["a[1].b"]


@pytest.mark.parametrize(
    "number", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 5_000, "9" * 1_000_000]
)
def test_numbers_beyond_64_bits_are_refused_with_their_path(number: str) -> None:
    refusal = refused(b'{"itunes_store_id": %s}' % number.encode())
    assert [fault.path for fault in refusal.faults] == ["itunes_store_id"]
    assert number[:30] not in str(refusal)


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 0, -1, 0.5, 1e300])
def test_numbers_within_64_bits_are_kept(number: float) -> None:
    assert parse_json(json.dumps({"a": number}).encode()) == {"a": number}


def test_doubled_keys_are_refused_with_their_path() -> None:
    refusal = refused(b'{"pin": "1", "pin": "2", "settings": [{"item": 1, "item": 1}]}')
    assert [fault.path for fault in refusal.faults] == ["pin", "settings[0].item"]


@pytest.mark.parametrize(
    ("raw", "first", "last", "count"),
    [
        (b'{"a":[' + b'{"b":1,"b":2},' * 1000 + b"1]}", "a[0].b", "a[9].b", 10),
        (b'{"a":[' + b"1e400," * 1000 + b"1]}", "a[0]", "a[9]", 10),
        (b'{"a":[' + b'{"b":1},' * 1000 + b'1],"a":1}', "a", "a", 1),
        (b'{"a":1' + b',"a":1' * 1000 + b"}", "a", "a", 10),
        (b'{"a":1,"b":1,"b":2,"a":2,"c":3,"a":[1e400]}', "b", "a[0]", 4),
    ],
    ids=["objects", "numbers", "root", "one key", "two keys and a number"],
)
def test_at_most_ten_faults_of_a_body_are_named(
    raw: bytes, first: str, last: str, count: int
) -> None:
    paths = [fault.path for fault in refused(raw).faults]
    assert (paths[0], paths[-1], len(paths)) == (first, last, count)


def test_a_fault_inside_what_is_overwritten_leaves_no_body_unrefused() -> None:
    assert "twice" in str(refused(b'{"a":[' + b'{"b":1,"b":2},' * 1000 + b'1],"a":1}'))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":1,"a":[{"b":'])
@pytest.mark.parametrize("levels", [3_000, 100_000])
def test_deep_nesting_is_refused(opening: bytes, levels: int) -> None:
    refused(b'{"a":' + opening * levels)
    closed = {b"[": b"]", b'{"a":': b"1" + b"}" * levels}.get(opening, b"")
    refused(b'{"a":' + opening * levels + closed * (levels if opening == b"[" else 1) + b"}")


def test_a_deep_tree_that_can_be_parsed_is_refused_by_the_catalogue() -> None:
    raw = b'{"udid":"a","request_type":"InstallApplication","configuration":%s1%s}'
    body = parse_json(raw % (b'{"a":' * 300, b"}" * 300))
    with pytest.raises(BadRequest, match="levels"):
        CATALOGUE.prepare(body, lambda: "U")


def test_a_byte_order_mark_is_ignored() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":[' + b"1," * 1_000_000 + b"1]}",
        b'{"a":"' + b"x" * 4_000_000 + b'"}',
        b'{"a":"' + b"\\u0001" * 600_000 + b'"}',
        b'{"a":[' + b'{"b":1,"b":2},' * 100_000 + b"1]}",
        b'{"udid":"a","request_type":"DeviceInformation","queries":[' + b"1," * 500_000 + b"1]}",
        b'{"udid":"a","request_type":"DeviceLock"'
        + b',"x%d":1' * 1 % 7
        + b',"y":'
        + b"9" * 4_000_000
        + b"}",
    ],
    ids=["numbers", "text", "escapes", "doubled", "queries", "digits"],
)
def test_four_megabytes_of_anything_are_decided_soon(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(BadRequest):
        CATALOGUE.prepare(parse_json(raw), lambda: "U")
    assert time.process_time() - began < 5, "quadratic time would take minutes"


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(tree=json_trees)
def test_any_json_is_a_dictionary_or_a_refusal(tree: object) -> None:
    try:
        assert isinstance(parse_json(json.dumps(tree).encode()), dict)
    except BadRequest as refusal:
        assert str(refusal)


@settings(deadline=None)
@given(raw=st.binary() | st.text('{}[]",:0123456789eE-+.truefalsnNaIity\\u ').map(str.encode))
def test_any_bytes_are_a_dictionary_or_a_refusal(raw: bytes) -> None:
    try:
        assert isinstance(parse_json(raw), dict)
    except BadRequest as refusal:
        assert str(refusal)


@settings(deadline=None)
@given(
    body=st.dictionaries(
        st.sampled_from(["udid", "command_uuid", "Command", "settings"]), json_trees
    ),
    request_type=json_trees | st.sampled_from(tuple(CATALOGUE.forms)),
    field=st.sampled_from(
        ["Settings", "queries", "payload", "configuration", "updates", "manifest"]
    ),
    value=json_trees,
)
def test_any_request_is_a_command_or_a_refusal(
    body: dict[str, object], request_type: object, field: str, value: object
) -> None:
    whole = body | {"request_type": request_type, field: value}
    try:
        assert CATALOGUE.prepare(whole, lambda: "U").command.plist
    except BadRequest as refusal:
        assert refusal.faults
