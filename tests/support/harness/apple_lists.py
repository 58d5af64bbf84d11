"""Property lists of Apple's kind, with all that Apple's writers put into them and Python's reader refuses.

`answers` makes whole messages: the keys that the caller gives, as text, among other pairs.
"""

import struct
from collections.abc import Mapping
from html import escape

from hypothesis import strategies as st

DATES = [
    b"0000-12-30T00:00:00Z",
    b"11476-01-01T00:00:00Z",
    b"-29719-04-05T22:13:20Z",
    b"2026-11-28T20:00:00Z",
    b"2026-13-41T25:61:61Z",
    b"0001-01-01T00:00:00+14:00",
    b"never",
    b"",
]
TEXTS = [
    b"",
    b"App",
    b"\x00\x01\x08\x0b\x1f\x7f",
    b"\xff\xfe\xc3(",
    b"\xed\xa0\x80",
    b"\xef\xbf\xbe",
    b"&#0;&#1;&#xD800;&amp;&lt;",
    b"<![CDATA[</string><key>UDID</key>]]>",
    b"<!-- </string> -->",
    b"\r\n\r",
    b"x" * 70_000,
    "Grüße 😀".encode(),
]
INTEGERS = [b"0", b"-1", b"18446744073709551615", b"9" * 5000, b"0x7f", b" 7 ", b"+3", b"many", b""]
REALS = [b"nan", b"+infinity", b"-inf", b"1e400", b"0.5", b"1,5", b""]
DATA = [b"", b"AAEC", b"\n\t\tAAEC\n\t\tAAEC\n\t", b"A", b"%%%"]
KEYS = [
    b"Name",
    b"Name",
    b"QueryResponses",
    b"",
    b"a\x00b",
    b"&amp;",
    b"\xff",
    b"UDIDs",
    b"Statu",
    b"RequestType",
]
INNER_KEYS = [*KEYS, b"UDID", b"Status", b"CommandUUID", b"UserID"]
BEFORE = [b"", b"\n", b"\r\n \t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"]
DECLARATIONS = [
    b'<?xml version="1.0" encoding="UTF-8"?>\n',
    b"<?xml version='1.0'?>",
    b'<?xml version="1.0" encoding="utf-8" standalone="no"?>\n<!-- a > b -->\n',
    b"",
]
TYPES = [
    b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" '
    b'"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n',
    b'<!DOCTYPE plist SYSTEM "file://localhost/System/Library/DTDs/PropertyList.dtd">',
    b"",
]
BEHIND = [b"", b"\n", b"\x00", b"\n\x00\x00", b"junk", b"<plist><dict/></plist>", b"\xff\x00<!--"]


def _element(name: bytes, contents: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.sampled_from([b"<%b>%b</%b>" % (name, each, name) for each in contents])


_LEAVES = st.one_of(
    _element(b"string", TEXTS),
    _element(b"date", DATES),
    _element(b"integer", INTEGERS),
    _element(b"real", REALS),
    _element(b"data", DATA),
    st.sampled_from(
        [b"<true/>", b"<false />", b"<true></true>", b"<string/>", b"<dict/>", b"<array></array>"]
    ),
)


def _pairs(keys: list[bytes], values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    pair = st.tuples(st.sampled_from(keys), values).map(lambda p: b"<key>%b</key>\n%b" % p)
    return st.lists(pair, max_size=4)


def _around(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.lists(inner, max_size=4).map(lambda items: b"<array>" + b"\n".join(items) + b"</array>"),
        _pairs(INNER_KEYS, inner).map(lambda pairs: b"<dict>" + b"\n".join(pairs) + b"</dict>"),
        inner.map(lambda value: b"<array><unknown a='b'>" + value + b"</unknown></array>"),
    )


_VALUES = st.recursive(_LEAVES, _around, max_leaves=8)


@st.composite
def xml_answers(draw: st.DrawFn, keys: Mapping[str, str]) -> bytes:
    pairs = draw(_pairs(KEYS, _VALUES))
    for key, value in keys.items():
        pair = f"<key>{key}</key><string>{escape(value)}</string>".encode()
        pairs.insert(draw(st.integers(0, len(pairs))), pair)
    gap = draw(st.sampled_from([b"", b"\n\t", b"<!-- x -->", b"<?y z?>"]))
    document = draw(st.sampled_from(DECLARATIONS)) + draw(st.sampled_from(TYPES))
    document += (
        b'<plist version="1.0">\n<dict>' + gap + gap.join(pairs) + gap + b"</dict>\n</plist>"
    )
    document = draw(st.sampled_from(BEFORE)) + document + draw(st.sampled_from(BEHIND))
    return document


@st.composite
def utf16_answers(draw: st.DrawFn, keys: Mapping[str, str]) -> bytes:
    text = draw(xml_answers(keys)).replace(b"\xef\xbb\xbf", b"").decode(errors="replace")
    return text.replace("UTF-8", "UTF-16").encode(draw(st.sampled_from(["utf-16", "utf-16-be"])))


_DOUBLES = [-63114076800.0, 299e9, -1e300, float("nan"), float("inf"), 0.5]
_OBJECTS = [
    b"\x00",
    b"\x08",
    b"\x09",
    b"\x0f",
    b"\x10\x07",
    b"\x13" + b"\xff" * 8,
    b"\x14" + b"\xff" * 16,
    b"\x22\x7f\xc0\x00\x00",
    b"\x80\x05",
    b"\x43abc",
    b"\x44\xff\xfe\xfd\xfc",
    b"\x52\xff\xfe",
    b"\x62\xd8\x00\xdc\x00",
    b"\x61\xd8\x00",
    b"\x60",
    b"\xa0",
    b"\xd0",
    b"\xc0",
    *(kind + struct.pack(">d", each) for kind in (b"\x23", b"\x33") for each in _DOUBLES),
]


def _text(value: str) -> bytes:
    if value.isascii():
        return b"\x5f\x10" + bytes([len(value)]) + value.encode()
    raw = value.encode("utf-16-be")
    return b"\x6f\x10" + bytes([len(raw) // 2]) + raw


@st.composite
def binary_answers(draw: st.DrawFn, keys: Mapping[str, str]) -> bytes:
    """The root is the last object; what holds others comes behind them."""
    objects = draw(st.lists(st.sampled_from(_OBJECTS), min_size=1, max_size=8))
    ref_size, offset_size = draw(st.sampled_from([(1, 2), (2, 2), (2, 3), (3, 4), (4, 8)]))

    def refs(numbers: list[int]) -> bytes:
        return b"".join(number.to_bytes(ref_size, "big") for number in numbers)

    for _ in range(draw(st.integers(0, 4))):
        below = st.integers(0, len(objects) - 1)
        held = draw(st.lists(below, max_size=6))
        kind = draw(st.sampled_from([0xA0, 0xC0, 0xD0]))
        count = len(held) // 2 if kind == 0xD0 else len(held)
        objects.append(bytes([kind | count]) + refs(held[: 2 * count] if kind == 0xD0 else held))
    values = draw(st.lists(st.integers(0, len(objects) - 1), max_size=4))
    pairs = [(draw(st.sampled_from(["Name", "QueryResponses", "", "ü"])), at) for at in values]
    texts = {key: len(objects) + number for number, key in enumerate(keys)}
    objects += map(_text, keys.values())
    for key, at in texts.items():
        pairs.insert(draw(st.integers(0, len(pairs))), (key, at))
    first = len(objects)
    objects += [_text(key) for key, _ in pairs]
    numbers = list(range(first, len(objects))) + [at for _, at in pairs]
    objects.append(b"\xdf\x10" + bytes([len(pairs)]) + refs(numbers))
    return binary(objects, ref_size, offset_size)


def binary(objects: list[bytes], ref_size: int, offset_size: int) -> bytes:
    """A binary list whose root is the last object."""
    body, offsets = b"bplist00", b""
    for each in objects:
        offsets += len(body).to_bytes(offset_size, "big")
        body += each
    trailer = struct.pack(
        ">6xBBQQQ", offset_size, ref_size, len(objects), len(objects) - 1, len(body)
    )
    return body + offsets + trailer


def answers(keys: Mapping[str, str]) -> st.SearchStrategy[bytes]:
    """Messages that hold these keys, in each of the forms."""
    return xml_answers(keys) | utf16_answers(keys) | binary_answers(keys)
