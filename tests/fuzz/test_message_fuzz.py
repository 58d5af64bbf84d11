"""Messages of devices: any property list of Apple's kind is read, and nobody is taken for somebody else."""

import contextlib
import plistlib
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.apple.messages.connect import Connect, Status, parse_connect
from shared.apple.messages.keys import WANTED, read_message
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BadRequest
from tests.support.harness import apple_lists
from tests.support.harness.apple_lists import answers

ANSWER = {"UDID": "A5EF1BA1", "UserID": "U & I", "Status": "Acknowledged", "CommandUUID": "c<1>"}
MANY = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(body=answers(ANSWER))
def test_any_list_of_apples_kind_is_read(body: bytes) -> None:
    key = EnrollmentKey("A5EF1BA1:U & I", "A5EF1BA1", udid="A5EF1BA1", user="U & I")

    assert parse_connect(body) == Connect(key, Status.ACKNOWLEDGED, "c<1>")


PIECES = [
    *(b"<key> </key> <key/> <string> </string> <string/> <data> </data> <dict> </dict>").split(),
    *(
        b"<dict/> <array> </array> <array/> <true/> <true> </true> <date> </date> <foo> </foo>"
    ).split(),
    *(b"<foo/> <plist> </plist> <!-- --> <![CDATA[ ]]> <?x ?> UDID Status A B QUJD &amp;").split(),
    *(b'&#65; &#x42; &#13; & &x; < > " \' a="/" / - <x:dict> </x:dict> ]>').split(),
    *(b" ", b"\n", b"\r\n", b"\0", b"\x01", b"\xff", b" a='x'", b' a=">"', b" a='/'"),
    b"<key>UDID</key><string>A</string>",
    b"<key>UDID</key><string>B</string>",
    b"<key>Token</key><data>QUJD</data>",
    b"<key>U&#68;ID</key><string>C<![CDATA[<x>]]>D</string>",
    b"<key>x</key><array><true/></array>",
    b"<key>y</key><dict><key>UDID</key><string>B</string></dict>",
    b"<key>AwaitingConfiguration</key><true/>",
    b"<!DOCTYPE plist [<!ENTITY a 'b'>]>",
]
PAIRS = [piece for piece in PIECES if piece.startswith(b"<key>") and len(piece) > 5]
HEADS = [
    b"<?xml version='1.0' encoding='UTF-8'?>",
    b"",
    b"\xef\xbb\xbf",
    b"<?xml version='1.0' encoding='cp037'?>",
    b"<?xml version='1.0' encoding='iso-8859-5'?>",
    b"<?xml version='1.0' encoding='utf-16'?>",
]


@st.composite
def broken_xml(draw: st.DrawFn) -> bytes:
    pairs = draw(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=4))
    tokens: list[bytes] = re.findall(rb"<[^>]*>|[^<]+", b"".join(pairs))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(tokens)))
        if draw(st.booleans()):
            tokens[at:at] = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3))
        else:
            del tokens[at : at + 1]
    head, tail = draw(st.sampled_from(HEADS)), draw(st.sampled_from([b"", b"\n", b"</plist>"]))
    return head + b"<plist><dict>" + b"".join(tokens) + b"</dict></plist>" + tail


@st.composite
def broken_binary(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(apple_lists.binary_answers({"UDID": "A", "Status": "B"})))
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(8, len(body) - 1))] = draw(st.sampled_from([0, 1, 8, 0x5F, 0x0E]))
    return bytes(body)


@MANY
@given(body=broken_xml() | broken_binary())
def test_what_is_read_says_the_same_to_plistlib(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        message = read_message(body)
        oracle: Any = _as_plistlib_reads(body)
        for key in WANTED if oracle is not None else ():
            value = oracle.get(key)
            if isinstance(value, str | bytes | bool) and value != b"":
                assert message.get(key) == value
            else:
                assert not isinstance(message.get(key), str | bool)


def _as_plistlib_reads(body: bytes) -> Any:
    """None where it cannot; it raises nine kinds of errors and more."""
    with contextlib.suppress(Exception):
        return plistlib.loads(body)
    return None
