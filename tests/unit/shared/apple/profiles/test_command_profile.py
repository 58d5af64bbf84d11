"""The PayloadIdentifier of a profile: right, or None."""

import base64
import os
import plistlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.apple.profiles.doubts import payload_doubt
from shared.apple.profiles.read import MAX_ELEMENTS, MAX_OBJECTS, payload_identifier
from tests.support.command_requests import paths, prepare, refused
from tests.support.command_strategies import UDID, free_trees, plain_text

INNER = {"PayloadIdentifier": "of.inner", "PayloadType": "com.apple.wifi.managed"}
PROFILE = {
    "PayloadContent": [INNER],
    "PayloadIdentifier": "of.profile",
    "PayloadType": "Configuration",
}
FORMS = list(plistlib.PlistFormat)


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x84" + size.to_bytes(4, "big")
    return bytes([tag]) + length + content


def signed(content: bytes, octets: bytes | None = None) -> bytes:
    """A SignedData without signers; the device is who looks at those."""
    oid = bytes.fromhex("06092a864886f70d0107")
    inside = der(0x30, oid + b"\x01" + der(0xA0, octets or der(0x04, content)))
    data = der(0x30, b"\x02\x01\x01" + der(0x31, b"") + inside + der(0x31, b""))
    return der(0x30, oid + b"\x02" + der(0xA0, data))


def xml(inner: str, head: str = "") -> bytes:
    return f'<?xml version="1.0"?>{head}<plist version="1.0"><dict>{inner}</dict></plist>'.encode()


KEY = "<key>PayloadIdentifier</key>"


@pytest.mark.parametrize("form", FORMS)
def test_the_outermost_identifier_is_found(form: Any) -> None:
    payload = plistlib.dumps(PROFILE, fmt=form)
    assert payload_identifier(payload) == "of.profile"
    assert payload_identifier(signed(payload)) == "of.profile"


@settings(max_examples=200, deadline=None)
@given(
    identifier=plain_text,
    others=st.dictionaries(plain_text, free_trees, max_size=4),
    form=st.sampled_from(FORMS),
)
def test_it_is_what_a_reader_of_the_whole_profile_finds(
    identifier: str, others: dict[str, Any], form: Any
) -> None:
    payload = plistlib.dumps({**others, "PayloadIdentifier": identifier}, fmt=form)
    whole = plistlib.loads(payload)["PayloadIdentifier"]
    assert payload_identifier(payload) == (whole if whole and whole.isprintable() else None)


@pytest.mark.parametrize("form", FORMS)
def test_data_around_it_does_not_matter(form: Any) -> None:
    around = {"A": b"a" * 9000, "PayloadIdentifier": "of.profile", "Z": [b"z" * 9000, b"", INNER]}
    assert payload_identifier(plistlib.dumps(around, fmt=form)) == "of.profile"


@pytest.mark.parametrize(
    "odd",
    [
        "<!-- <data> --><key>A</key><string>-->b</string>",
        "<?a <data>?><key>A</key><string>b</string>",
        "<key>A</key><string><![CDATA[<data>]]></string>",
        "<key>A</key><data></data><!-- <key>PayloadIdentifier</key><string>b</string> -->",
    ],
)
def test_what_only_looks_like_data_hides_nothing(odd: str) -> None:
    identifier = f"{KEY}<string>of.profile</string>"
    assert payload_identifier(xml(odd + identifier)) == "of.profile"
    assert payload_identifier(xml(identifier + odd)) == "of.profile"


def test_pieces_of_content_are_put_together(tmp_path: Path) -> None:
    content = plistlib.dumps(PROFILE | {"Large": os.urandom(30_000)})
    (tmp_path / "content").write_bytes(content)
    make_key = "req -x509 -newkey rsa:2048 -nodes -keyout key -out crt -subj /CN=a -days 2"
    sign = "smime -sign -in content -signer crt -inkey key -outform der -nodetach -binary"
    for line in (make_key, f"{sign} -out whole", f"{sign} -stream -out pieces"):
        subprocess.run(["openssl", *line.split()], cwd=tmp_path, check=True, capture_output=True)
    whole, pieces = (tmp_path / "whole").read_bytes(), (tmp_path / "pieces").read_bytes()
    assert pieces[1] == 0x80  # an indefinite length
    assert payload_identifier(whole) == payload_identifier(pieces) == "of.profile"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"0",
        b"0\x80",
        b"no profile",
        b"bplist00",
        b"bplist00" + b"\xff" * 40,
        plistlib.dumps({"PayloadContent": [INNER]}),
        plistlib.dumps([PROFILE]),
        plistlib.dumps({"PayloadIdentifier": ["a"]}),
        plistlib.dumps({"PayloadIdentifier": {"PayloadIdentifier": "a"}}),
        plistlib.dumps({"PayloadIdentifier": "x" * 300}),
        plistlib.dumps({"PayloadIdentifier": ""}),
        xml(f"{KEY}<string>a\nb</string>"),
        xml(f"{KEY}<string>a</string>{KEY}<string>b</string>"),
        xml(f"{KEY}<string>a</string>")[:-5],
        xml(f"{KEY}<string>&a;</string>", '<!DOCTYPE p [<!ENTITY a "b">]>'),
        plistlib.dumps({"PayloadIdentifier": "a", "Many": [1] * MAX_ELEMENTS}),
        plistlib.dumps(
            {"PayloadIdentifier": "a", "Many": list(range(MAX_OBJECTS))}, fmt=plistlib.FMT_BINARY
        ),
        signed(b"no profile"),
        signed(b"", octets=der(0x24, der(0x04, b"a") + b"\x05\x00")),
        der(0x30, der(0x06, b"a")),
    ],
)
def test_what_cannot_be_told_is_none(payload: bytes) -> None:
    assert payload_identifier(payload) is None


@pytest.mark.parametrize("encoding", ["U_F-8", "rot13", "base64", "utf-7", "idna", "undefined"])
def test_an_encoding_that_nobody_reads_is_no_error(encoding: str) -> None:
    payload = plistlib.dumps(PROFILE).replace(b"UTF-8", encoding.encode())

    assert payload_identifier(payload) is None
    assert payload_doubt(payload) is None


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_damaged_profiles_never_raise(cut: int, at: int, byte: int) -> None:
    for payload in (signed(plistlib.dumps(PROFILE)), plistlib.dumps(PROFILE, fmt=FORMS[1])):
        damaged = bytearray(payload[: len(payload) - cut])
        if at < len(damaged):
            damaged[at] = byte
        found = payload_identifier(bytes(damaged))
        assert found is None or found.isprintable()


def test_a_profile_that_shall_supersede_replaces_those_of_its_identifier_only() -> None:
    payload = base64.b64encode(plistlib.dumps(PROFILE)).decode()
    body = {"udid": UDID, "request_type": "InstallProfile", "payload": payload}
    assert prepare(body).terms.collapse_key is None
    assert prepare(body | {"supersede": True}).terms.collapse_key == "InstallProfile:of.profile"


@pytest.mark.parametrize("payload", ["eA==", "", "no base64", None])
def test_a_profile_without_an_identifier_cannot_supersede(payload: object) -> None:
    body = {"udid": UDID, "request_type": "InstallProfile", "payload": payload}
    assert "supersede" in paths(refused(body | {"supersede": True}))
