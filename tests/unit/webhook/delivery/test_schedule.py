"""Promises of the retry schedule."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.webhook.delivery.schedule import JITTER_PERCENT, RetryPolicy
from shared.domain.subscription import Subscription

JITTER = JITTER_PERCENT / 100
ANY = Subscription("any", "http://receiver.invalid/")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITS = st.lists(st.timedeltas(timedelta(seconds=1), timedelta(days=2)), min_size=1, max_size=12)
RANDOM = st.floats(0, 1, exclude_max=True)


@given(WAITS, RANDOM, st.data())
def test_the_nth_attempt_is_followed_by_the_nth_wait_within_the_jitter(
    waits: list[timedelta], random: float, data: st.DataObject
) -> None:
    attempts = data.draw(st.integers(1, len(waits)))

    at = RetryPolicy(waits, lambda: random).next_attempt(ANY, attempts, NOW)

    assert at is not None
    wait = waits[attempts - 1]
    slack = timedelta(microseconds=1)
    assert wait * (1 - JITTER) - slack <= at - NOW <= wait * (1 + JITTER) + slack


@given(WAITS, RANDOM, st.integers(1, 100))
def test_after_the_last_wait_there_is_nothing(
    waits: list[timedelta], random: float, more: int
) -> None:
    assert RetryPolicy(waits, lambda: random).next_attempt(ANY, len(waits) + more, NOW) is None


@given(WAITS, RANDOM)
def test_what_was_never_tried_is_due_now(waits: list[timedelta], random: float) -> None:
    assert RetryPolicy(waits, lambda: random).next_attempt(ANY, 0, NOW) == NOW


def test_the_middle_of_the_jitter_is_the_wait_itself() -> None:
    assert RetryPolicy([timedelta(1), timedelta(2)], lambda: 0.5).next_attempt(
        ANY, 2, NOW
    ) == NOW + timedelta(2)
