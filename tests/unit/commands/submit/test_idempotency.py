"""`Idempotency-Key`: the CommandUUID of a request that may come again."""

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.commands.submit.service import uuid_by_key, uuid_of_key
from shared.domain.errors import BadRequest

TEXT = st.text(max_size=40)


def made(*keys: str, caller: str = "ci") -> str | None:
    return uuid_by_key(keys, caller)


def test_without_a_key_no_uuid_is_made() -> None:
    assert made() is None


def test_a_key_names_one_uuid_for_ever() -> None:
    assert made("order 66") == "189aab68-5ad5-84b4-adb5-5a5d22ba2438"


@given(TEXT, TEXT, TEXT, TEXT)
def test_other_keys_and_other_callers_have_other_uuids(
    key: str, caller: str, other_key: str, other_caller: str
) -> None:
    is_same = (key, caller) == (other_key, other_caller)

    assert (uuid_of_key(key, caller) == uuid_of_key(other_key, other_caller)) is is_same


@given(TEXT, TEXT)
def test_it_is_a_uuid_of_version_8(key: str, caller: str) -> None:
    parsed = UUID(uuid_of_key(key, caller))

    assert (parsed.version, parsed.variant) == (8, RFC_4122)


@pytest.mark.parametrize("keys", [("",), ("a" * 256,), ("a\tb",), ("schlüssel",), ("a", "a")])
def test_what_is_no_key_is_refused_by_its_name(keys: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match="Idempotency-Key"):
        made(*keys)


def test_every_printable_character_may_be_in_a_key() -> None:
    printable = "".join(map(chr, range(0x20, 0x7F)))

    assert UUID(made(printable) or "")
    assert UUID(made("a" * 255) or "")
