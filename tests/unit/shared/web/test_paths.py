"""Ids with slashes and percent signs in a path."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.web.api.paths import parameter, routed


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_id_is_found_under_its_encoded_form(id_: str) -> None:
    path = routed(f"/v1/commands/MAC/{quote(id_, safe='')}".encode())

    segments = path.split("/")
    assert len(segments) == 5
    assert parameter(segments[-1]) == id_


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"//v1///devices", "/v1/devices"),
        (b"/v1/commands/a%2F%2fb", "/v1/commands/a%2F%2fb"),
        (b"/v1/%63ommands", "/v1/commands"),
        (b"/%252e", "/%252e"),
    ],
)
def test_encoded_slashes_divide_nothing_and_others_are_one(raw: bytes, path: str) -> None:
    assert routed(raw) == path


@pytest.mark.parametrize("raw", [b"/%", b"/%zz", b"/%%34%31", b"/%2"])
def test_what_is_no_escape_stands_for_itself_and_is_decoded_once(raw: bytes) -> None:
    assert parameter(routed(raw)) == {b"/%%34%31": "/%41"}.get(raw, raw.decode())
