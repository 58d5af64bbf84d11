"""Promises of when a subscriber counts as down, and how it is asked then."""

from dataclasses import replace
from datetime import timedelta

from structlog.testing import capture_logs

from services.webhook.endpoints.endpoint import (
    DOWN,
    DOWN_AFTER,
    FIRST_PAUSE,
    GONE_PAUSE,
    LONGEST_PAUSE,
    PAUSED,
    PROBE_PATIENCE,
    Endpoint,
)
from services.webhook.endpoints.sender import AttemptOutcome
from shared.domain.subscription import Subscription, SubscriptionState
from tests.support.fakes.clock import FakeClock

SUBSCRIPTION = Subscription("s", "http://receiver.invalid/", name="inventory")
TAKEN, REFUSED, GONE = (
    AttemptOutcome(),
    AttemptOutcome("answered 500"),
    AttemptOutcome("answered 410", status=410),
)
MOMENT = timedelta(milliseconds=1)


def opened(clock: FakeClock) -> Endpoint:
    endpoint = Endpoint("s", clock)
    endpoint.follow(SUBSCRIPTION, 1.0)
    return endpoint


def ask(endpoint: Endpoint, outcome: AttemptOutcome, device: str = "MAC") -> None:
    endpoint.asked()
    endpoint.heard(outcome, [device])


def fail(endpoint: Endpoint, clock: FakeClock, duration: timedelta = DOWN_AFTER) -> None:
    """Nothing but failures for so long."""
    for _ in range(3):
        ask(endpoint, REFUSED)
    clock.advance(duration)
    ask(endpoint, REFUSED)


def pauses(endpoint: Endpoint, clock: FakeClock, count: int) -> list[int]:
    """The next pauses in seconds between attempts that all fail."""
    found = []
    for _ in range(count):
        seconds = 0
        while endpoint.away(is_first=False):
            clock.advance(timedelta(seconds=1))
            seconds += 1
        found.append(seconds)
        ask(endpoint, REFUSED)
    return found


def test_a_few_retries_at_once_one_while_it_is_down() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    endpoint.retrying = SUBSCRIPTION.limits.concurrency // 2 - 1
    before = endpoint.has_room
    endpoint.retrying += 1

    assert before
    assert not endpoint.has_room
    fail(endpoint, clock)
    clock.advance(LONGEST_PAUSE)
    assert not endpoint.has_room
    endpoint.retrying = 0
    assert endpoint.has_room


def test_while_it_is_down_pauses_grow_to_a_minute() -> None:
    clock = FakeClock()
    endpoint = opened(clock)

    fail(endpoint, clock)

    assert pauses(endpoint, clock, 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_next_outage_begins_with_the_first_pause() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    fail(endpoint, clock)
    pauses(endpoint, clock, 5)
    ask(endpoint, TAKEN)

    fail(endpoint, clock)

    assert pauses(endpoint, clock, 2) == [1, 2]


def test_while_it_is_down_one_attempt_at_a_time_asks() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    fail(endpoint, clock)
    clock.advance(FIRST_PAUSE)
    assert endpoint.away(is_first=False) is None
    endpoint.asked()
    clock.advance(PROBE_PATIENCE - MOMENT)

    assert endpoint.away(is_first=False) == endpoint.away(is_first=True) == DOWN
    clock.advance(MOMENT)
    assert endpoint.away(is_first=False) is None


def test_while_it_is_down_a_new_event_asks_after_a_second() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    fail(endpoint, clock)
    pauses(endpoint, clock, 6)
    at_once = endpoint.away(is_first=True)
    clock.advance(FIRST_PAUSE)

    assert at_once == DOWN
    assert endpoint.away(is_first=True) is None
    assert endpoint.away(is_first=False) == DOWN


def test_one_that_is_gone_is_asked_once_an_hour_by_new_events_too() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    ask(endpoint, GONE)
    clock.advance(GONE_PAUSE - MOMENT)

    assert endpoint.away(is_first=True) == endpoint.away(is_first=False) == PAUSED
    clock.advance(MOMENT)
    assert endpoint.away(is_first=True) is None


def test_a_stored_410_makes_a_process_ask_once_that_has_heard_nothing_yet() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    endpoint.was_paused()
    may_ask = endpoint.away(is_first=False) is None
    ask(endpoint, REFUSED)

    assert may_ask
    assert not endpoint.is_paused
    endpoint.was_paused()
    assert not endpoint.is_paused


def test_failures_within_a_few_seconds_are_no_outage() -> None:
    clock = FakeClock()
    endpoint = opened(clock)

    for _ in range(40):
        fail(endpoint, clock, DOWN_AFTER / 2)
        ask(endpoint, TAKEN)

    assert not endpoint.is_down
    assert endpoint.recovered_at < 0


def test_two_failures_are_no_outage_however_long_ago() -> None:
    clock = FakeClock()
    endpoint = opened(clock)

    ask(endpoint, REFUSED)
    clock.advance(DOWN_AFTER * 10)
    ask(endpoint, REFUSED)

    assert not endpoint.is_down


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_is_over() -> None:
    clock = FakeClock()
    endpoint = opened(clock)

    with capture_logs() as logs:
        fail(endpoint, clock)
        fail(endpoint, clock)
        ask(endpoint, TAKEN)
        ask(endpoint, TAKEN)

    assert [line["event"] for line in logs] == ["subscriber_failing", "subscriber_recovered"]
    assert logs[0]["reason"] == "answered 500"
    assert [(line["subscription"], line["name"]) for line in logs] == [("s", "inventory")] * 2


def test_the_devices_whose_events_it_took_are_known() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    clock.advance(MOMENT)
    endpoint.heard(TAKEN, ["MAC"])

    assert endpoint.took(0.0)
    assert not endpoint.took(clock.monotonic())
    assert not endpoint.took_another("MAC", 0.0)
    endpoint.heard(TAKEN, ["PAD", "PHONE"])
    assert endpoint.took_another("PHONE", 0.0)


def test_one_that_is_active_again_begins_without_its_past() -> None:
    clock = FakeClock()
    endpoint = opened(clock)
    fail(endpoint, clock)
    ask(endpoint, GONE)
    endpoint.follow(replace(SUBSCRIPTION, state=SubscriptionState.DISABLED), 1.0)
    clock.advance(MOMENT)
    was_held = not endpoint.has_room
    endpoint.follow(SUBSCRIPTION, 1.0)

    assert was_held
    assert endpoint.has_room
    assert not endpoint.is_resting
    assert endpoint.recovered_at == clock.monotonic()


def test_its_history_is_incomplete_until_it_is_prepared() -> None:
    clock = FakeClock()
    endpoint = Endpoint("s", clock)
    endpoint.follow(replace(SUBSCRIPTION, state=SubscriptionState.PREPARING), 1.0)
    clock.advance(MOMENT)
    during = endpoint.history_at
    endpoint.follow(SUBSCRIPTION, 1.0)
    active_at = clock.monotonic()
    clock.advance(MOMENT)
    endpoint.follow(SUBSCRIPTION, 1.0)

    assert during > active_at
    assert endpoint.history_at == active_at
