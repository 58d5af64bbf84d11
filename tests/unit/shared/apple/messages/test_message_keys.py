"""What is read of a device's message: the keys that we need, with all else that Apple's writers put there."""

import plistlib
import struct

import pytest

from shared.apple.messages.connect import Connect, Status, parse_connect
from shared.apple.messages.keys import read_message
from shared.apple.plist import read as plist
from shared.apple.plist.xml_form import APPLES_HEAD, MAX_DEPTH, MAX_TOKEN
from shared.domain.errors import BadRequest
from tests.support.harness.apple_lists import BEHIND, DATES, INTEGERS, REALS, TEXTS, binary
from tests.unit.shared.apple.plist.test_plist import REFUSED, nested_xml, xml
from tests.unit.shared.apple.plist.test_plist import binary as root_first

SAID = b"<key>UDID</key><string>A</string><key>Status</key><string>Idle</string>"


def answer(inner: bytes) -> bytes:
    return xml(b"<dict>" + inner + SAID + b"</dict>")


def of(name: bytes, content: bytes) -> bytes:
    return answer(b"<key>a</key><%b>%b</%b>" % (name, content, name))


ODD = {
    **{f"date {each!r}": of(b"date", each) for each in DATES},
    **{f"text {each[:20]!r}": of(b"string", each) for each in TEXTS},
    **{f"integer {each[:20]!r}": of(b"integer", each) for each in INTEGERS},
    **{f"real {each!r}": of(b"real", each) for each in REALS},
    **{f"{each!r} behind": answer(b"") + each for each in BEHIND},
    "a blank line before": b"\n" + answer(b""),
    "a BOM and a blank line before": b"\xef\xbb\xbf\r\n" + answer(b""),
    "UTF-16 without a BOM": answer(b"").decode().encode("utf-16-le"),
    "UTF-16 with a NUL behind": answer(b"").decode().encode("utf-16") + b"\0",
    "a plist without its tag": b"<dict>" + SAID + b"</dict>",
    "an unknown element inside": answer(b"<key>a</key><array><x y='z'><true/></x></array>"),
    "a doubled key": answer(b"<key>a</key><true/><key>a</key><false/>"),
    "a doubled key of an identity further in": answer(
        b"<key>a</key><dict><key>UDID</key><true/><key>UDID</key><true/></dict>"
    ),
    "500,000 values": answer(b"<key>a</key><array>" + b"<true/>" * 500_000 + b"</array>"),
    "100,001 keys": answer(b"<key>a</key><true/>" * 100_001),
    "a million lines": answer(b"<key>a</key><string>" + b"\n" * 1_000_000 + b"</string>"),
    "a million references": answer(b"<key>a</key><string>" + b"&amp;" * 1_000_000 + b"</string>"),
    "a comment as long as it may be": answer(b"<!--" + b"-" * MAX_TOKEN + b"-->"),
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
def test_nothing_beside_the_keys_that_we_need_makes_a_message_refused(body: bytes) -> None:
    message = parse_connect(body)

    assert (message.key.id, message.status) == ("A", Status.IDLE)


@pytest.mark.parametrize("seconds", [-63114076800.0, 299e9, float("nan"), float("inf")])
def test_a_binary_date_of_any_year_is_no_hindrance(seconds: float) -> None:
    date = b"\x33" + struct.pack(">d", seconds)
    objects = [b"\x54UDID", b"\x51A", b"\x56Status", b"\x54Idle", b"\x51d", date]

    message = parse_connect(binary([*objects, b"\xd3\x00\x02\x04\x01\x03\x05"], 1, 1))

    assert (message.key.id, message.status) == ("A", Status.IDLE)


def test_a_binary_answer_of_500_000_objects_is_read() -> None:
    values = list(range(250_000))
    body = plistlib.dumps({"UDID": "A", "Status": "Idle", "a": values}, fmt=plistlib.FMT_BINARY)

    assert isinstance(parse_connect(body), Connect)


FENCED = [
    "entity bomb",
    "external entity",
    "contains itself",
    "XML nested 200,000 deep",
    "binary nested 60,000 deep",
    "a comment of 4 MB",
    "an attribute of 4 MB",
    "a name of 4 MB",
    "an instruction of 4 MB",
    "a long comment in UTF-16",
    "a size of 2^40",
    "2^40 objects",
    "objects that overlap",
    "cut short",
    "no root",
    "root is an array",
]


@pytest.mark.parametrize("name", FENCED)
def test_the_fences_on_work_hold(name: str) -> None:
    with pytest.raises(BadRequest):
        read_message(REFUSED[name])


def test_a_message_is_as_deep_as_a_property_list_may_be() -> None:
    deep = nested_xml(MAX_DEPTH - 1).replace(b"<array></array>", b"<array><true/></array>")

    assert read_message(deep) == {}
    with pytest.raises(BadRequest, match="nested too deep"):
        read_message(deep.replace(b"<true/>", b"<array><true/></array>"))


@pytest.mark.parametrize("key", sorted(plist.UNIQUE_KEYS - {"RequestType"}))
def test_a_doubled_key_that_decides_is_refused_in_xml(key: str) -> None:
    pair = f"<key>{key}</key><string>A</string>".encode()
    same = f"<key><!-- -->&#{ord(key[0])};{key[1:]}</key><string>A</string>".encode()

    for second in (pair, same):
        with pytest.raises(BadRequest, match=f"{key} is there twice"):
            read_message(xml(b"<dict>" + pair + second + b"</dict>"))


@pytest.mark.parametrize(
    "second", [b"\x54UDID", b"\x5f\x10\x04UDID", b"\x64\0U\0D\0I\0D"], ids=["short", "long", "wide"]
)
def test_a_doubled_key_that_decides_is_refused_in_binary(second: bytes) -> None:
    objects = [b"\xd2\x01\x02\x03\x04", b"\x54UDID", second, b"\x51A", b"\x51B"]

    with pytest.raises(BadRequest, match="UDID is there twice"):
        read_message(root_first(objects))
    with pytest.raises(BadRequest, match="UDID is there twice"):
        read_message(root_first([b"\xd2\x01\x01\x02\x02", *objects[1:]]))


TWO_FACES = {
    "a tag that ends in an attribute": b'<key>a</key><array b="/><key>UDID</key>...">x</array>',
    "an element that some readers look through": b"<x><key>UDID</key><string>B</string></x>",
    "a value with elements inside": b"<key>UserID</key><string>a<x>b</x></string>",
    "a value that some readers look through": b"<key>a</key><x><true/>"
    b"<key>UDID</key><string>B</string></x>",
    "a second dictionary": b"</dict><dict>",
    "a key without a value": b"<key>a</key><key>b</key><true/>",
    "a value without a key": b"<string>B</string>",
    "tags that do not match": b"<key>a</key><array><dict></array></dict>",
    "a declared encoding that is not that of the bytes": b"",
}


@pytest.mark.parametrize("inner", TWO_FACES.values(), ids=TWO_FACES.keys())
def test_what_two_readers_may_understand_differently_is_refused(inner: bytes) -> None:
    body = answer(inner)
    if not inner:
        body = body.replace(b'encoding="UTF-8"', b'encoding="UTF-16"')

    with pytest.raises(BadRequest):
        read_message(body)


def test_a_size_of_another_kind_is_refused() -> None:
    """Apple's reader takes 16 bytes here, Python's takes one."""
    key = b"\x5f\x14" + b"\x04" + b"UDID" + bytes(11)

    with pytest.raises(BadRequest, match="no plain integer"):
        read_message(root_first([b"\xd1\x01\x02", key, b"\x51A"]))


def test_an_identity_of_bytes_that_are_no_text_is_refused() -> None:
    with pytest.raises(BadRequest, match="UDID: holds bytes that are no text"):
        read_message(xml(b"<dict><key>UDID</key><string>A\xff</string></dict>"))


def test_a_name_of_bytes_that_are_no_text_can_be_stored() -> None:
    body = xml(b"<dict><key>DeviceName</key><string>Mac\xff</string></dict>")

    assert read_message(body)["DeviceName"].encode() == b"Mac?"


def test_values_of_a_check_in_are_read_as_plistlib_reads_them() -> None:
    message = {
        "MessageType": "TokenUpdate",
        "Token": b"\x00\x01" * 40,
        "PushMagic": "a & <b> 'ü'",
        "AwaitingConfiguration": True,
        "DeviceName": "Mac\n😀",
    }

    for form in plistlib.PlistFormat:
        assert read_message(plistlib.dumps(message, fmt=form)) == message


@pytest.mark.parametrize(
    "text",
    [
        b"plain",
        b"",
        b" \t a \n b ",
        "\u00fc\u2028".encode(),
        b"\xff\xfe",
        b"\x00\x01",
        b"one\r\ntwo\rthree",
        b"a &amp; &#66;",
        b"a<!-- aside -->b",
        b"<![CDATA[a<b]]>",
        b"a > b",
    ],
)
@pytest.mark.parametrize("key", [b"DeviceName", b"Status", b"Unknown"])
def test_a_message_is_the_same_however_its_writer_sets_its_pairs(key: bytes, text: bytes) -> None:
    pair = b"\n\t<key>" + key + b"</key>%b\n\t<string>" + text + b"</string>"
    inner = b"\n\t<key>UDID</key>%b\n\t<string>A</string>" + pair
    end = b"\n\t<key>CommandUUID</key>%b\n\t<string>B</string>\n</dict>\n</plist>\n"
    apples = APPLES_HEAD + inner.replace(b"%b", b"") + end.replace(b"%b", b"")
    others = APPLES_HEAD + b"\n" + (inner + end).replace(b"%b", b"<!-- aside -->")

    outcomes = []
    for body in (apples, others, b"\n" + apples, b"\n" + others):
        try:
            outcomes.append(read_message(body))
        except BadRequest as exc:
            outcomes.append(str(exc))

    assert outcomes[0] == outcomes[1] == outcomes[2] == outcomes[3]


@pytest.mark.parametrize("end", [b"", b"</plist>", b"</dict>", b"<key>UDID</key>", b"<string>A"])
def test_behind_apples_head_a_message_must_go_on_as_one(end: bytes) -> None:
    with pytest.raises(BadRequest, match="broken off"):
        read_message(APPLES_HEAD + end)
