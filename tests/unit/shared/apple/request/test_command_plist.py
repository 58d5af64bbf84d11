"""Raw property lists pass byte for byte; written ones hold exactly what was given."""

import base64
import datetime
import hashlib
import plistlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.apple.plist.write import write
from shared.apple.request.plist import prepare_raw
from shared.domain.errors import BadRequest
from tests.support.command_requests import with_types
from tests.support.command_strategies import free_trees, plain_text


def raw(fmt: Any = plistlib.FMT_XML, **command: object) -> bytes:
    return plistlib.dumps({"CommandUUID": "mine", "Command": command}, fmt=fmt)


def refusal_of(plist: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        prepare_raw("device", plist)
    return caught.value


@pytest.mark.parametrize("fmt", list(plistlib.PlistFormat))
def test_a_raw_command_keeps_its_bytes(fmt: Any) -> None:
    plist = raw(fmt, RequestType="FromTheFuture", Anything=[1])
    prepared = prepare_raw("device", plist)
    assert prepared.target == "device"
    assert prepared.command.plist == plist
    assert prepared.command.hash == hashlib.sha256(plist).hexdigest()
    assert (prepared.command.uuid, prepared.command.request_type) == ("mine", "FromTheFuture")
    assert prepared.response == {
        "udid": "device",
        "command_uuid": "mine",
        "command": {"request_type": "FromTheFuture"},
        "payload": base64.b64encode(plist).decode(),
    }


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"Command": {"RequestType": "ProfileList"}}, "CommandUUID"),
        ({"CommandUUID": "", "Command": {"RequestType": "ProfileList"}}, "CommandUUID"),
        ({"CommandUUID": 7, "Command": {"RequestType": "ProfileList"}}, "CommandUUID"),
        ({"CommandUUID": "a\nb", "Command": {"RequestType": "ProfileList"}}, "CommandUUID"),
        ({"CommandUUID": "x" * 257, "Command": {"RequestType": "ProfileList"}}, "CommandUUID"),
        ({"CommandUUID": "a"}, "Command"),
        ({"CommandUUID": "a", "Command": []}, "Command"),
        ({"CommandUUID": "a", "Command": {}}, "Command.RequestType"),
        ({"CommandUUID": "a", "Command": {"RequestType": 7}}, "Command.RequestType"),
    ],
)
def test_a_raw_command_without_its_two_names_is_refused(document: Any, path: str) -> None:
    assert [fault.path for fault in refusal_of(plistlib.dumps(document)).faults] == [path]


@pytest.mark.parametrize("target", ["", " ", "a\nb", "x" * 257])
def test_a_raw_command_for_an_unusable_id_is_refused(target: str) -> None:
    with pytest.raises(BadRequest) as caught:
        prepare_raw(target, raw(RequestType="ProfileList"))
    assert [fault.path for fault in caught.value.faults] == ["udid"]


@pytest.mark.parametrize("plist", [b"", b"{}", b"<plist/>", plistlib.dumps([1]), b"bplist00"])
def test_a_raw_command_that_is_no_property_list_is_refused(plist: bytes) -> None:
    assert str(refusal_of(plist))


@settings(deadline=None)
@given(tree=st.dictionaries(plain_text, free_trees | st.binary(max_size=100)))
def test_what_is_written_is_what_plistlib_reads(tree: dict[str, Any]) -> None:
    assert with_types(plistlib.loads(write(tree))) == with_types(tree)


def test_dates_and_large_numbers_are_written() -> None:
    tree = {"when": datetime.datetime(2024, 1, 2, 3, 4, 5), "most": 2**64 - 1, "least": -(2**63)}
    assert plistlib.loads(write(tree)) == tree


def test_what_a_property_list_cannot_hold_is_a_bug_and_says_so() -> None:
    with pytest.raises(TypeError, match="set"):
        write({"a": [{1}]})


@pytest.mark.parametrize("size", [3 * 16 * 1024, 200_000])
def test_large_data_is_written_as_small_data_is(size: int) -> None:
    root = {"ä": [b"\x00" * size, "é"], "Z": b"z"}
    written = write(root)
    assert plistlib.loads(written) == root
    assert base64.b64encode(b"\x00" * size) in written
