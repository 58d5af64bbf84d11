"""Failures by address: what counts, what is forgotten."""

from datetime import timedelta

import pytest

from shared.web.api.throttle import ADDRESSES, LIMIT, WINDOW, FailedAttempts
from tests.support.fakes.clock import FakeClock

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


def failing(attempts: FailedAttempts, address: str, times: int) -> list[timedelta | None]:
    return [attempts.note(address) for _ in range(times)]


def test_the_first_failures_wait_for_nothing_and_the_next_one_for_the_window() -> None:
    attempts = FailedAttempts(FakeClock())

    assert failing(attempts, HERE, LIMIT + 1) == [None] * LIMIT + [WINDOW]


def test_the_wait_ends_with_the_window() -> None:
    clock = FakeClock()
    attempts = FailedAttempts(clock)
    failing(attempts, HERE, LIMIT)
    clock.advance(WINDOW / 3)
    assert attempts.note(HERE) == WINDOW * 2 / 3
    clock.advance(WINDOW * 2 / 3)

    assert attempts.note(HERE) is None


def test_failures_of_one_address_are_not_held_against_another() -> None:
    attempts = FailedAttempts(FakeClock())
    failing(attempts, HERE, LIMIT + 5)

    assert attempts.note(ELSEWHERE) is None


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_an_ipv6_network_counts_as_one_address(one: str, other: str, is_same: bool) -> None:
    attempts = FailedAttempts(FakeClock())
    failing(attempts, one, LIMIT)

    assert (attempts.note(other) is not None) is is_same


def test_memory_is_bounded_and_who_failed_longest_ago_is_forgotten_first() -> None:
    attempts = FailedAttempts(FakeClock())
    failing(attempts, HERE, LIMIT + 1)
    failing(attempts, ELSEWHERE, LIMIT + 1)
    for number in range(ADDRESSES - 1):
        attempts.note(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    assert attempts.note(ELSEWHERE) is not None
    assert attempts.note(HERE) is None
