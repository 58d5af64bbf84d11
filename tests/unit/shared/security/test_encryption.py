"""Encrypted values open for those who hold the key, at the entry they were encrypted for, and else never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import CannotDecrypt
from shared.ports.keyring import Keyring
from shared.security.encryption import PREFIX, AesKeyring, key_id

OLD, NEW = b"\x01" * 32, b"\x02" * 32
CONTEXT = "enrollments/U1/unlock_token"


@given(st.binary(max_size=4096), st.text(max_size=80))
def test_what_was_encrypted_opens_again(plain: bytes, context: str) -> None:
    keyring: Keyring = AesKeyring([OLD])

    encrypted = keyring.encrypt(plain, context)

    assert keyring.decrypt(encrypted, context) == plain
    assert keyring.key_of(encrypted) == keyring.current == key_id(OLD)


def test_the_secret_does_not_show_and_no_two_encrypts_are_alike() -> None:
    keyring = AesKeyring([OLD])

    encrypted = [keyring.encrypt(b"a secret", CONTEXT) for _ in range(100)]

    assert len(set(encrypted)) == 100
    assert not any(b"a secret" in each for each in encrypted)


def test_an_empty_value_is_encrypted_too() -> None:
    encrypted = AesKeyring([OLD]).encrypt(b"", CONTEXT)

    assert AesKeyring([OLD]).key_of(encrypted) == key_id(OLD)
    assert AesKeyring([OLD]).decrypt(encrypted, CONTEXT) == b""


@pytest.mark.parametrize(
    "clear", [b"", b"plain", PREFIX[:-1], b"<?xml", b"bplist00", b"\xf5SEALED2"]
)
def test_a_value_in_clear_of_an_earlier_version_passes(clear: bytes) -> None:
    assert AesKeyring([OLD]).decrypt(clear, CONTEXT) == clear
    assert AesKeyring([OLD]).key_of(clear) is None


def test_a_second_key_opens_and_the_first_one_encrypts() -> None:
    encrypted = AesKeyring([OLD]).encrypt(b"a secret", CONTEXT)
    rotated = AesKeyring([NEW, OLD])

    assert rotated.decrypt(encrypted, CONTEXT) == b"a secret"
    assert rotated.key_of(encrypted) != rotated.current
    assert rotated.key_of(rotated.encrypt(b"a secret", CONTEXT)) == key_id(NEW)


def test_a_missing_key_is_named_by_its_id_and_the_secret_is_not() -> None:
    encrypted = AesKeyring([OLD]).encrypt(b"a secret", CONTEXT)

    with pytest.raises(CannotDecrypt) as caught:
        AesKeyring([NEW]).decrypt(encrypted, CONTEXT)

    assert key_id(OLD) in str(caught.value)
    assert CONTEXT in str(caught.value)
    assert "a secret" not in str(caught.value)


def test_a_value_moved_to_another_record_does_not_open() -> None:
    encrypted = AesKeyring([OLD]).encrypt(b"a secret", CONTEXT)

    with pytest.raises(CannotDecrypt, match=key_id(OLD)):
        AesKeyring([OLD]).decrypt(encrypted, CONTEXT.replace("U1", "U2"))


def test_every_bit_of_it_is_guarded() -> None:
    keyring = AesKeyring([OLD])
    encrypted = keyring.encrypt(b"a secret", CONTEXT)

    for at in range(len(PREFIX), len(encrypted)):
        for bit in range(8):
            altered = bytearray(encrypted)
            altered[at] ^= 1 << bit
            with pytest.raises(CannotDecrypt):
                keyring.decrypt(bytes(altered), CONTEXT)


def test_what_was_cut_short_does_not_open() -> None:
    keyring = AesKeyring([OLD])
    encrypted = keyring.encrypt(b"a secret", CONTEXT)

    for length in range(len(PREFIX), len(encrypted)):
        with pytest.raises(CannotDecrypt):
            keyring.decrypt(encrypted[:length], CONTEXT)


def test_without_encryption_values_stay_in_clear_and_encrypted_ones_open() -> None:
    encrypted = AesKeyring([OLD]).encrypt(b"a secret", CONTEXT)
    clear = AesKeyring([OLD], encrypts=False)

    assert clear.encrypt(b"a secret", CONTEXT) == b"a secret"
    assert clear.decrypt(encrypted, CONTEXT) == b"a secret"
    assert clear.current is None


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD, b"\0" * 33]])
def test_keys_of_another_size_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AesKeyring(keys)


def test_no_key_shows_in_a_repr() -> None:
    assert repr(AesKeyring([OLD, NEW])) == f"AesKeyring({key_id(OLD)}, {key_id(NEW)})"
