"""The keys of MDM_API_KEY, and the headers that carry them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.web.api.keys import ApiKeys, read_credentials

OLD, NEW = "the-old-key", "the:new key with a colon, ü"


def header(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def name_of(authorization: str | None, keys: tuple[str, ...] = (OLD, NEW)) -> str | None:
    """Of the caller with this header, None for nobody."""
    given = read_credentials(authorization)
    caller = ApiKeys([SecretStr(key) for key in keys]).caller(given) if given else None
    return caller.name if caller else None


@pytest.mark.parametrize(("key", "name"), [(OLD, "api-key"), (NEW, "api-key-2")])
def test_every_key_is_good_during_a_rotation(key, name):
    assert name_of(header("micromdm", key)) == name


def test_the_scheme_is_taken_in_any_letter_case():
    assert name_of(header("micromdm", OLD).replace("Basic", "bAsIc")) == "api-key"


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
        f"Bearer {OLD}",
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
    assert name_of(authorization) is None


def test_without_a_key_nobody_is_let_in():
    assert name_of(header("micromdm", ""), keys=()) is None
    assert name_of(header("", ""), keys=()) is None


@given(st.text())
def test_no_header_whatsoever_raises(authorization):
    assert name_of(authorization) is None
