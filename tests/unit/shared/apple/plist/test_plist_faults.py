"""Why a property list cannot be read: plain words with a line or a key, never a class of Python's."""

import plistlib
import struct

import pytest

from shared.apple.plist import read as plist
from shared.domain.errors import BadRequest
from tests.unit.shared.apple.plist.test_plist import REFUSED, binary, xml

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0">\n'


def refusal(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        plist.parse(body)
    return caught.value


def inside(value: bytes) -> bytes:
    return (
        HEAD
        + b"<dict><key>Command</key><dict>\n<key>Items</key>"
        + value
        + b"</dict></dict></plist>"
    )


WORDS = {
    b"": "plist: is no property list",
    b"hello": "plist: is no property list",
    b'{"a": 1}': "plist: is no property list",
    b"<html></html>": "plist: is no property list",
    b"bplist00": "plist: is broken, or holds a date outside the years 1 to 9999",
    HEAD + b"<dict>\n</array></plist>": "plist: line 4: mismatched tag",
    b"\n\n" + HEAD + b"<dict>\n</array></plist>": "plist: line 6: mismatched tag",
    HEAD + b"<dict><key>a</key>": "plist: line 3: no element found",
    HEAD + b"<dict><key>a</key></dict></plist>": "plist: line 3: a key without a value",
    HEAD + b"<dict><true/></dict></plist>": "plist: line 3: a value without a key",
    HEAD + b"<dict><array/></dict></plist>": "plist: line 3: a value without a key",
    HEAD
    + b"<dict><key>a</key><key>b</key></dict></plist>": "plist: line 3: a key where a value belongs",
    HEAD + b"<array><key>a</key></array></plist>": "plist: line 3: a key where a value belongs",
    inside(b"<integer>4 apples</integer>"): "Command.Items: expected an integer",
    inside(b"<integer/>"): "Command.Items: expected an integer",
    inside(
        b"<array><true/><integer>4.5</integer></array>"
    ): "Command.Items[1]: expected an integer",
    inside(
        b"<array><array><true/></array><real>much</real></array>"
    ): "Command.Items[1]: expected a number",
    inside(b"<data>A</data>"): "Command.Items: expected base64",
    inside(
        b"<date>0000-12-30T00:00:00Z</date>"
    ): "Command.Items: expected a date in the years 1 to 9999, such as 2026-01-02T03:04:05Z",
    inside(b"<string>\x01</string>"): "plist: line 4: not well-formed (invalid token)",
}


@pytest.mark.parametrize(("body", "words"), WORDS.items(), ids=WORDS.values())
def test_a_refusal_says_what_is_wrong(body: bytes, words: str) -> None:
    assert str(refusal(body)) == words


def test_a_binary_date_that_python_has_not_is_named() -> None:
    date = b"\x33" + struct.pack(">d", 299e9)

    assert "a date outside the years 1 to 9999" in str(
        refusal(binary([b"\xd1\1\2", b"\x51a", date]))
    )


def test_what_is_wrong_with_a_key_is_a_fault_with_its_path() -> None:
    [fault] = refusal(inside(b"<integer>4 apples</integer>")).faults

    assert (fault.path, fault.expected) == ("Command.Items", "an integer")


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_no_refusal_names_a_class_of_pythons(body: bytes) -> None:
    said = str(refusal(body))

    assert "Error" not in said
    assert "Exception" not in said


SOUND = plistlib.dumps({"a": "b"})
AROUND = {
    "a blank line before": b"\n" + SOUND,
    "a BOM before": b"\xef\xbb\xbf" + SOUND,
    "a BOM and blank lines before": b"\xef\xbb\xbf\r\n \t" + SOUND,
    "a NUL behind": SOUND + b"\n\x00",
    "text behind": SOUND + b"echo done",
    "another list behind": SOUND + SOUND,
    "a comment first": SOUND.split(b"\n", 1)[0] + b"<!-- </plist> -->" + SOUND.split(b"\n", 1)[1],
    "no declaration": b"<!DOCTYPE plist>"
    + xml(b"<dict><key>a</key><string>b</string></dict>")[38:],
}


@pytest.mark.parametrize("body", AROUND.values(), ids=AROUND.keys())
def test_what_stands_around_a_list_is_no_hindrance(body: bytes) -> None:
    assert plist.parse(body) == {"a": "b"}
