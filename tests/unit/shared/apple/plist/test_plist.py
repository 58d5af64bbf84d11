"""Property lists from outside: what is harmless is read, everything else is refused in bounded time."""

import base64
import plistlib
import struct
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.apple.plist import read as plist
from shared.domain.errors import BadRequest

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0">'
TAIL = b"</plist>"


def xml(inner: bytes) -> bytes:
    return HEAD + inner + TAIL


def text_of(content: bytes) -> bytes:
    return xml(b"<dict><key>a</key><string>" + content + b"</string></dict>")


def nested_xml(levels: int) -> bytes:
    return xml(b"<dict><key>a</key>" + b"<array>" * levels + b"</array>" * levels + b"</dict>")


def binary(objects: list[bytes], *, ref_size: int = 1, offsets: list[int] | None = None) -> bytes:
    """A binary plist of these objects, the first of which is the root."""
    body = b"bplist00"
    at = []
    for item in objects:
        at.append(len(body))
        body += item
    table = len(body)
    where = at if offsets is None else [at[i] for i in offsets]
    body += b"".join(offset.to_bytes(4, "big") for offset in where)
    return body + struct.pack(">6xBBQQQ", 4, ref_size, len(where), 0, table)


def array(count: int, refs: bytes) -> bytes:
    return b"\xaf\x12" + count.to_bytes(4, "big") + refs


def reference_bomb() -> bytes:
    """Thirty levels of ten references: 10^30 values in some hundred bytes."""
    key = b"\x51a"
    levels = [b"\xaa" + bytes([level + 3]) * 10 for level in range(30)]
    return binary([b"\xd1\x01\x02", key, *levels, b"\x51z"])


def overlap_bomb() -> bytes:
    """Many array objects at one place, each as long as the file: quadratic memory."""
    count = 30_000
    ids = [0, 1, *([3] * count), 2]
    leaf = (count + 2).to_bytes(2, "big")
    root_refs = b"".join(i.to_bytes(2, "big") for i in range(2, count + 2))
    objects = [
        b"\xd1\x00\x01\x00\x02",
        b"\x51a",
        b"\x51z",
        array(count, leaf * count),
    ]
    assert len(root_refs) == 2 * count
    return binary(objects, ref_size=2, offsets=ids)


REFUSED: Mapping[str, bytes] = {
    "empty": b"",
    "not a plist": b"hello",
    "root is an array": xml(b"<array/>"),
    "root is text": xml(b"<string>x</string>"),
    "root is a truth": plistlib.dumps(True, fmt=plistlib.FMT_BINARY),
    "root is data": plistlib.dumps(b"x", fmt=plistlib.FMT_BINARY),
    "no root": xml(b""),
    "entity bomb": b'<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaaaaaaaa">'
    b'<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><plist><dict><key>&b;</key><true/></dict></plist>',
    "external entity": b'<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY x SYSTEM '
    b'"file:///etc/hostname">]><plist><dict><key>a</key><string>&x;</string></dict></plist>',
    "ten references, thirty levels": reference_bomb(),
    "contains itself": binary([b"\xd1\x01\x02", b"\x51a", b"\xa1\x02"]),
    "XML nested 200,000 deep": nested_xml(200_000),
    "XML nested just too deep": nested_xml(plist.MAX_DEPTH),
    "binary nested 60,000 deep": binary(
        [b"\xd1\x00\x01\x00\x02", b"\x51a"]
        + [b"\xa1" + (i + 3).to_bytes(2, "big") for i in range(60_000)]
        + [b"\x51z"],
        ref_size=2,
    ),
    "a comment of 4 MB": xml(b"<!--" + b"a" * 4_000_000 + b"--><dict/>"),
    "an attribute of 4 MB": HEAD + b'<dict a="' + b"a" * 4_000_000 + b'"/>' + TAIL,
    "a name of 4 MB": xml(b"<" + b"a" * 4_000_000 + b"/>"),
    "an instruction of 4 MB": xml(b"<?a " + b"a" * 4_000_000 + b"?><dict/>"),
    "an entity's name of 4 MB": xml(b"<dict><key>&" + b"a" * 4_000_000 + b";</key></dict>"),
    "a comment without an end": HEAD + b"<!--" + b"a" * 4_000_000,
    "a long comment in UTF-16": xml(b"<!--" + b"a" * 200_000 + b"--><dict/>")
    .decode()
    .replace("UTF-8", "UTF-16")
    .encode("utf-16"),
    "a million elements": xml(b"<array>" + b"<true/>" * 600_000 + b"</array>"),
    "too many lines of a text": xml(
        b"<dict><key>a</key><string>" + b"\n" * (plist.MOST_PIECES + 1) + b"</string></dict>"
    ),
    "four million empty lines": text_of(b"\n" * 4_000_000),
    "four million returns": text_of(b"\r" * 4_000_000),
    "a million references": text_of(b"&amp;" * 1_000_000),
    "too many values": xml(
        b"<dict><key>a</key><array>" + b"<true/>" * (plist.MAX_NODES + 1) + b"</array></dict>"
    ),
    "a size of 2^40": binary([b"\x5f\x13" + (2**40).to_bytes(8, "big")]),
    "a size of 2^62": binary([b"\xaf\x13" + (2**62).to_bytes(8, "big")]),
    "2^40 objects": b"bplist00" + struct.pack(">6xBBQQQ", 1, 1, 2**40, 0, 8),
    "objects that overlap": overlap_bomb(),
    "a date that is none": xml(b"<dict><key>a</key><date>zzz</date></dict>"),
    "a number that is none": xml(b"<dict><key>a</key><integer>abc</integer></dict>"),
    "a number of 10,000 digits": xml(
        b"<dict><key>a</key><integer>" + b"9" * 10_000 + b"</integer></dict>"
    ),
    "a key that is no text": binary([b"\xd1\x01\x01", b"\x10\x05"]),
    "bad UTF-8": xml(b"<dict><key>a</key><string>\xff\xfe</string></dict>"),
    "a NUL": xml(b"<dict><key>a</key><string>\x00</string></dict>"),
    "a lone surrogate": binary([b"\xd1\x01\x02", b"\x51a", b"\x61\xd8\x00"]),
    "cut short": xml(b"<dict><key>a</key>")[:-8],
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_trusted_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        plist.parse(body)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_base64_of_eight_megabytes_in_lines_is_read(end: bytes) -> None:
    lines = (base64.b64encode(bytes(51)) + end) * (8 * 1024**2 // 51)
    read = plist.parse(xml(b"<dict><key>a</key><data>" + lines + b"</data></dict>"))
    assert len(read["a"]) == len(lines) // (68 + len(end)) * 51


@pytest.mark.parametrize("key", sorted(plist.UNIQUE_KEYS))
@pytest.mark.parametrize("form", ["xml", "binary"])
def test_a_doubled_key_that_decides_is_refused(key: str, form: str) -> None:
    pair = f"<key>{key}</key><string>A</string>".encode()
    ascii_key = bytes([0x5F, 0x10, len(key)]) + key.encode()
    body = (
        xml(b"<dict>" + pair + pair + b"</dict>")
        if form == "xml"
        else binary([b"\xd2\x01\x02\x03\x03", ascii_key, ascii_key, b"\x51a"])
    )

    with pytest.raises(BadRequest, match=f"{key} is there twice"):
        plist.parse(body)


def test_another_doubled_key_is_tolerated() -> None:
    pair = b"<key>Other</key><string>A</string>"

    assert plist.parse(xml(b"<dict>" + pair + pair + b"</dict>")) == {"Other": "A"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_apple_writes_are_read(encoding: str) -> None:
    name = "UTF-16" if encoding == "utf-16" else "UTF-8"
    body = f'<?xml version="1.0" encoding="{name}"?><plist><dict><key>UDID</key>'
    body += "<string>Grüße</string></dict></plist>"

    assert plist.parse(body.encode(encoding)) == {"UDID": "Grüße"}


def test_a_large_answer_is_read() -> None:
    applications = [{"Name": f"App {i}", "Icon": b"x" * 400} for i in range(5_000)]
    body = plistlib.dumps({"UDID": "A", "InstalledApplicationList": applications})

    assert len(body) > 3_000_000
    assert plist.parse(body)["InstalledApplicationList"] == applications


def test_one_string_of_four_megabytes_is_read() -> None:
    message = {"a": "x" * 4_000_000, "b": b"y" * 1_000_000}

    assert plist.parse(plistlib.dumps(message)) == message


def test_a_key_of_a_megabyte_is_read() -> None:
    assert plist.parse(plistlib.dumps({"k" * 1_000_000: True})) == {"k" * 1_000_000: True}


def test_a_body_over_the_second_fence_is_refused_unread() -> None:
    with pytest.raises(BadRequest, match="too large"):
        plist.parse(bytes(plist.MAX_BYTES + 1))


def test_the_reason_shows_nothing_of_the_message() -> None:
    secret = b"push-magic-4711"

    with pytest.raises(BadRequest) as caught:
        plist.parse(xml(b"<dict><key>a</key><integer>" + secret + b"</integer></dict>"))

    assert b"4711" not in str(caught.value).encode()
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "value",
    [1, True, b"ID", ["ID"], {"ID": "ID"}, "a\nb", "a\x00b", "a\x7fb", "a\u202eb", "x" * 257],
)
def test_an_identifier_is_short_printable_text(value: object) -> None:
    with pytest.raises(BadRequest, match=r"^UDID: "):
        plist.identifier({"UDID": value}, "UDID")


def test_readers_refuse_other_types_and_name_the_key() -> None:
    with pytest.raises(BadRequest, match="Token: expected data"):
        plist.octets({"Token": "text"}, "Token", limit=10)
    with pytest.raises(BadRequest, match="Token: longer than 10 bytes"):
        plist.octets({"Token": b"x" * 11}, "Token", limit=10)
    with pytest.raises(BadRequest, match="Flag: expected true or false"):
        plist.boolean({"Flag": 1}, "Flag")
    with pytest.raises(BadRequest, match="Name: expected text"):
        plist.text({"Name": b"x"}, "Name")
    with pytest.raises(BadRequest, match="Name: longer than 3 characters"):
        plist.text({"Name": "abcd"}, "Name", limit=3)
    with pytest.raises(BadRequest, match="UDID: missing"):
        plist.required_identifier({"UDID": ""}, "UDID")


LEAVES = (
    st.text(st.characters(exclude_categories=["C"]))
    | st.binary()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
)
KEYS = st.text(st.characters(exclude_categories=["C"]), min_size=1)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(
    message=st.dictionaries(KEYS, TREES, max_size=6),
    form=st.sampled_from([plistlib.FMT_XML, plistlib.FMT_BINARY]),
)
def test_whatever_plistlib_writes_is_read_back(
    message: dict[str, Any], form: plistlib.PlistFormat
) -> None:
    assert plist.parse(plistlib.dumps(message, fmt=form)) == message


def test_what_has_too_much_in_it_is_refused_before_it_is_built() -> None:
    """Four megabytes of one or the other took a second each."""
    array = b"<dict><key>a</key><array>" + b"<true/>" * 500_000 + b"</array></dict>"
    text = b"<dict><key>a</key><string>" + b"\r" * 4_000_000 + b"</string></dict>"

    for body in (xml(array), xml(text)):
        began = time.process_time()
        with pytest.raises(BadRequest, match="too many"):
            plist.parse(body)
        assert time.process_time() - began < 0.1


def test_as_many_lines_as_a_message_may_have_are_read() -> None:
    lines = "a\n" * (plist.MOST_PIECES - 10)
    body = xml(b"<dict><key>a</key><string>" + lines.encode() + b"</string></dict>")

    assert plist.parse(body) == {"a": lines}


def test_as_many_values_as_a_message_may_have_are_read() -> None:
    values = b"<key>b</key><string>c</string>" * (plist.MAX_NODES // 4)
    body = xml(b"<dict><key>a</key><array>" + (b"<dict>" + values[:60] + b"</dict>") * 20_000)
    body = body.removesuffix(TAIL) + b"</array></dict>" + TAIL

    assert len(plist.parse(body)["a"]) == 20_000
