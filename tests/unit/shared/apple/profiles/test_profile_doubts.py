"""A payload of InstallProfile that no device will take is described by its look."""

import base64
import plistlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.apple.profiles.doubts import payload_doubt
from shared.apple.request.advice import Recipient
from tests.support.command_requests import CATALOGUE, prepare
from tests.support.command_strategies import UDID
from tests.unit.shared.apple.profiles.test_command_profile import FORMS, PROFILE, der, signed

XML = plistlib.dumps(PROFILE)
BINARY = plistlib.dumps(PROFILE, fmt=plistlib.FMT_BINARY)


@pytest.mark.parametrize("form", FORMS)
def test_a_profile_is_not_doubted_in_any_form(form: plistlib.PlistFormat) -> None:
    profile = plistlib.dumps(PROFILE, fmt=form)

    for each in (profile, signed(profile), signed(signed(profile))):
        assert payload_doubt(each) is None
    assert payload_doubt(XML.decode().encode("utf-16").replace(b"UTF-8", b"UTF-16")) is None


@pytest.mark.parametrize(
    ("payload", "doubt"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (base64.b64encode(XML), "is base64 twice"),
        (base64.encodebytes(BINARY), "is base64 twice"),
        (base64.b64encode(signed(XML)), "is base64 twice"),
        (b"-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----\n", "is PEM"),
        (XML[:-30], "is broken XML (line "),
        (XML.replace(b"<key>", b"<kay>", 1), "is broken XML (line "),
        (b"<html><body>Not found</body></html>", "is XML, but no property list"),
        (BINARY[:-10], "cannot be read (plist: "),
        (plistlib.dumps({"a": 1}, fmt=plistlib.FMT_BINARY), "has no PayloadIdentifier"),
        (der(0x30, b"\x02\x01\x01"), "is DER, but no signed profile"),
        (signed(b"{}"), "is signed, but what was signed is no profile"),
        (b'{"PayloadContent": []}', "is no profile: neither XML, nor binary, nor signed"),
    ],
)
def test_what_is_no_profile_is_told_for_what_it_looks_like(payload: bytes, doubt: str) -> None:
    assert (payload_doubt(payload) or "").startswith(doubt)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda end: XML[:80] + end))
def test_whatever_the_bytes_are_nothing_is_raised(payload: bytes) -> None:
    assert payload_doubt(payload) != ""


@pytest.mark.parametrize("product", ["iPhone14,2", None])
def test_the_client_is_warned_and_the_command_queued(product: str | None) -> None:
    recipient = Recipient(product, None, is_device_channel=True, is_user_enrollment=False)

    def warned(payload: bytes) -> tuple[str, ...]:
        text = base64.b64encode(payload).decode()
        body = {"udid": UDID, "request_type": "InstallProfile", "payload": text}
        return CATALOGUE.advise(prepare(body), recipient).warnings

    assert warned(base64.b64encode(XML)) == ("payload: is base64 twice: encode the profile once",)
    assert warned(XML) == ()
