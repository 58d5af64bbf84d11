"""Sealed values open for those who hold the key, at the place they were sealed for, and else never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import CannotOpen
from shared.ports.seal import Seal
from shared.security.sealing import PREFIX, Sealer, key_id

OLD, NEW = b"\x01" * 32, b"\x02" * 32
CONTEXT = "enrollments/U1/unlock_token"


@given(st.binary(max_size=4096), st.text(max_size=80))
def test_what_was_sealed_opens_again(plain: bytes, context: str) -> None:
    sealer: Seal = Sealer([OLD])

    sealed = sealer.seal(plain, context)

    assert sealer.open(sealed, context) == plain
    assert sealer.key_of(sealed) == sealer.current == key_id(OLD)


def test_the_secret_does_not_show_and_no_two_seals_are_alike() -> None:
    sealer = Sealer([OLD])

    sealed = [sealer.seal(b"a secret", CONTEXT) for _ in range(100)]

    assert len(set(sealed)) == 100
    assert not any(b"a secret" in each for each in sealed)


def test_an_empty_value_is_sealed_too() -> None:
    sealed = Sealer([OLD]).seal(b"", CONTEXT)

    assert Sealer([OLD]).key_of(sealed) == key_id(OLD)
    assert Sealer([OLD]).open(sealed, CONTEXT) == b""


@pytest.mark.parametrize(
    "clear", [b"", b"plain", PREFIX[:-1], b"<?xml", b"bplist00", b"\xf5SEALED2"]
)
def test_a_value_in_clear_of_an_earlier_version_passes(clear: bytes) -> None:
    assert Sealer([OLD]).open(clear, CONTEXT) == clear
    assert Sealer([OLD]).key_of(clear) is None


def test_a_second_key_opens_and_the_first_one_seals() -> None:
    sealed = Sealer([OLD]).seal(b"a secret", CONTEXT)
    rotated = Sealer([NEW, OLD])

    assert rotated.open(sealed, CONTEXT) == b"a secret"
    assert rotated.key_of(sealed) != rotated.current
    assert rotated.key_of(rotated.seal(b"a secret", CONTEXT)) == key_id(NEW)


def test_a_missing_key_is_named_by_its_id_and_the_secret_is_not() -> None:
    sealed = Sealer([OLD]).seal(b"a secret", CONTEXT)

    with pytest.raises(CannotOpen) as caught:
        Sealer([NEW]).open(sealed, CONTEXT)

    assert key_id(OLD) in str(caught.value)
    assert CONTEXT in str(caught.value)
    assert "a secret" not in str(caught.value)


def test_a_value_moved_to_another_record_does_not_open() -> None:
    sealed = Sealer([OLD]).seal(b"a secret", CONTEXT)

    with pytest.raises(CannotOpen, match=key_id(OLD)):
        Sealer([OLD]).open(sealed, CONTEXT.replace("U1", "U2"))


def test_every_bit_of_it_is_guarded() -> None:
    sealer = Sealer([OLD])
    sealed = sealer.seal(b"a secret", CONTEXT)

    for at in range(len(PREFIX), len(sealed)):
        for bit in range(8):
            altered = bytearray(sealed)
            altered[at] ^= 1 << bit
            with pytest.raises(CannotOpen):
                sealer.open(bytes(altered), CONTEXT)


def test_what_was_cut_short_does_not_open() -> None:
    sealer = Sealer([OLD])
    sealed = sealer.seal(b"a secret", CONTEXT)

    for length in range(len(PREFIX), len(sealed)):
        with pytest.raises(CannotOpen):
            sealer.open(sealed[:length], CONTEXT)


def test_without_sealing_values_stay_in_clear_and_sealed_ones_open() -> None:
    sealed = Sealer([OLD]).seal(b"a secret", CONTEXT)
    clear = Sealer([OLD], seals=False)

    assert clear.seal(b"a secret", CONTEXT) == b"a secret"
    assert clear.open(sealed, CONTEXT) == b"a secret"
    assert clear.current is None


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD, b"\0" * 33]])
def test_keys_of_another_size_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(keys)


def test_no_key_shows_in_a_repr() -> None:
    assert repr(Sealer([OLD, NEW])) == f"Sealer({key_id(OLD)}, {key_id(NEW)})"
