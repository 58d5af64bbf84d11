"""Challenges that need no record: what they say is what was put in, and nobody else can make one."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.security.authority import Authority
from shared.security.challenges import KEY_SIZE, LONGEST, PREFIX, PURPOSE, ChallengeTokens
from tests.support.fakes.clock import START, FakeClock

TOKENS = ChallengeTokens(b"k" * KEY_SIZE)
SECRET = TOKENS.make(START, "UDID-1", "SERIAL-1") or ""
NAMES = st.none() | st.text(min_size=1, max_size=40)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=st.just(UTC))


# So late that a float of its seconds rounds up.
@example(datetime(4148, 1, 1, 0, 0, 0, 999993, UTC), None, None)
@given(TIMES, NAMES, NAMES)
def test_a_token_says_what_was_put_in(
    expires_at: datetime, udid: str | None, serial_number: str | None
) -> None:
    secret = TOKENS.make(expires_at, udid, serial_number)

    if secret is None:
        assert len(f"{udid}{serial_number}".encode()) > 80
        return
    found = TOKENS.read(secret)
    assert found is not None
    assert (found.udid, found.serial_number) == (udid, serial_number)
    assert found.expires_at == expires_at.replace(microsecond=0)
    assert len(secret) <= LONGEST


@given(st.text(), st.binary())
def test_what_is_no_token_says_nothing(text: str, token: bytes) -> None:
    for secret in (text, PREFIX + text, PREFIX + token.hex()):
        assert TOKENS.read(secret) is None


@given(st.data())
def test_a_changed_token_says_nothing(data: st.DataObject) -> None:
    secret = SECRET
    at = data.draw(st.integers(0, len(secret) - 1))
    other = data.draw(st.sampled_from("0123456789abcdefABCDEF -").filter(lambda c: c != secret[at]))

    assert TOKENS.read(secret[:at] + other + secret[at + 1 :]) is None
    assert TOKENS.read(secret[:at]) is None


def test_two_tokens_are_never_the_same() -> None:
    assert len({TOKENS.make(START, None, None) for _ in range(100)}) == 100


def test_another_key_reads_nothing() -> None:
    secret = ChallengeTokens(b"o" * KEY_SIZE).make(START, None, None)

    assert secret is not None
    assert TOKENS.read(secret) is None


@pytest.mark.parametrize("size", [0, 16, 64])
def test_a_key_of_another_size_is_none(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ChallengeTokens(bytes(size))


def test_all_who_have_the_ca_derive_the_same_key_for_one_purpose() -> None:
    made = Authority.create(FakeClock())
    restored = Authority.restore(made.stored())

    assert made.derived_key(PURPOSE, KEY_SIZE) == restored.derived_key(PURPOSE, KEY_SIZE)
    assert made.derived_key("another", KEY_SIZE) != made.derived_key(PURPOSE, KEY_SIZE)
    assert Authority.create(FakeClock()).derived_key(PURPOSE, KEY_SIZE) not in {
        made.derived_key(PURPOSE, KEY_SIZE)
    }
