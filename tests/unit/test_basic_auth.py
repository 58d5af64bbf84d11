"""Basic authentication of API clients."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.web.basic_auth import BasicAuth

OLD, NEW = "the-old-key", "the:new key with a colon, ü"


def header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def both_keys() -> BasicAuth:
    return BasicAuth([SecretStr(OLD), SecretStr(NEW)])


@pytest.mark.parametrize("key", [OLD, NEW])
def test_every_key_is_good_during_a_rotation(key):
    assert both_keys().accepts(header("micromdm", key))


def test_the_scheme_is_taken_in_any_letter_case():
    assert both_keys().accepts(header("micromdm", OLD).replace("Basic", "bAsIc"))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic " + base64.b64encode(b"micromdm").decode(),
        "Bearer " + base64.b64encode(b"micromdm:the-old-key").decode(),
        header("micromdm", ""),
        header("", OLD),
        header("admin", OLD),
        header("micromdm", OLD + "x"),
        header("micromdm", OLD[:-1]),
        header("micromdm", OLD + " " + NEW),
        header("micromdm", "x" * 100_000),
    ],
)
def test_anything_else_is_refused(authorization):
    assert not both_keys().accepts(authorization)


def test_without_a_key_nobody_is_let_in():
    nobody = BasicAuth([])

    assert not nobody.accepts(header("micromdm", ""))
    assert not nobody.accepts(None)


@given(st.text())
def test_no_header_whatsoever_raises(authorization):
    assert not both_keys().accepts(authorization)
