"""When something that did not answer is asked again."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from shared.messaging.rabbit.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker
from tests.support.fakes.clock import FakeClock


def pause_of(breaker: Breaker, clock: FakeClock) -> timedelta:
    """How long it refuses, in steps of 100 ms; the clock stands at the end of that."""
    step, waited = timedelta(milliseconds=100), timedelta()
    while breaker.refuses:
        clock.advance(step)
        waited += step
    return waited


def test_it_refuses_nothing_before_the_first_miss() -> None:
    breaker = Breaker(FakeClock())

    assert not breaker.refuses
    assert not breaker.is_open


def test_pauses_double_from_one_second_to_thirty() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    pauses = []

    for _ in range(7):
        breaker.probe()
        assert breaker.trip()
        pauses.append(pause_of(breaker, clock).total_seconds())

    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_many_misses_at_once_count_as_one() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)

    noticed = [breaker.trip() for _ in range(50)]

    assert noticed == [True] + [False] * 49
    assert pause_of(breaker, clock) == FIRST_PAUSE


def test_one_probe_at_a_time() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    breaker.trip()
    pause_of(breaker, clock)

    breaker.probe()
    during = breaker.refuses
    clock.advance(LONGEST_PAUSE)
    long_after = breaker.refuses
    breaker.give_up_probe()

    assert during and long_after
    assert not breaker.refuses


def test_an_answer_ends_it_and_the_next_pause_is_short_again() -> None:
    clock = FakeClock()
    breaker = Breaker(clock)
    for _ in range(4):
        breaker.probe()
        breaker.trip()
    breaker.close()

    was_open = breaker.is_open
    breaker.trip()

    assert not was_open
    assert pause_of(breaker, clock) == FIRST_PAUSE


@given(st.lists(st.sampled_from(["trip", "probe", "give_up_probe"]), max_size=30))
def test_whatever_happens_it_may_be_asked_again_after_the_longest_pause(steps: list[str]) -> None:
    clock = FakeClock()
    breaker = Breaker(clock)

    for step in steps:
        getattr(breaker, step)()
    breaker.give_up_probe()
    clock.advance(LONGEST_PAUSE)

    assert not breaker.refuses
