"""Promises of the bounds on subscribers against one subscriber, and of when it counts as down."""

import asyncio
from datetime import timedelta

from structlog.testing import capture_logs

from services.webhook.endpoints.request import EventRequest, single
from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.endpoints.subscribers import (
    DOWN_AFTER,
    FEWEST_RETRIES,
    MOST_RETRIES,
    SLOTS,
    Endpoint,
    Subscribers,
)
from shared.domain.subscription import Subscription
from shared.telemetry.metrics import Metrics
from tests.support.delivery_rig import FixedSubscriptions
from tests.support.fakes.clock import FakeClock, settle

SUBSCRIBER = Subscription("config", "http://anna:secret@receiver.invalid/")
REQUEST = single("e1", "mdm.Connect", b"")
SHORT = timedelta(milliseconds=20)


class HangingSender:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.under_way: list[asyncio.Future[AttemptOutcome]] = []

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        self.under_way.append(asyncio.get_running_loop().create_future())
        return await self.under_way[-1]


async def full(sender: HangingSender, patience: timedelta = SHORT) -> Subscribers:
    """A subscriber of which every slot is taken."""
    subscribers = Subscribers(FixedSubscriptions(), sender, FakeClock(), Metrics(), patience)
    for _ in range(SLOTS):
        asyncio.ensure_future(subscribers.first(SUBSCRIBER, "MAC", REQUEST))  # noqa: RUF006 - ends with the loop
    await settle()
    return subscribers


async def end(sender: HangingSender) -> None:
    for answer in sender.under_way:
        if not answer.done():
            answer.set_result(AttemptOutcome())
    await settle()


async def test_who_waits_behind_a_subscriber_that_hangs_is_turned_away() -> None:
    sender = HangingSender()
    subscribers = await full(sender)

    outcome = await subscribers.first(SUBSCRIBER, "MAC", REQUEST)

    assert not outcome.counts
    assert len(sender.under_way) == SLOTS
    await end(sender)


async def test_once_it_hangs_nobody_waits_any_more() -> None:
    sender = HangingSender()
    subscribers = await full(sender)
    await subscribers.first(SUBSCRIBER, "MAC", REQUEST)

    next_one = asyncio.ensure_future(subscribers.first(SUBSCRIBER, "MAC", REQUEST))
    await settle()

    assert next_one.done()
    await end(sender)


async def test_an_entry_that_is_left_goes_to_who_waits() -> None:
    sender = HangingSender()
    subscribers = await full(sender, timedelta(seconds=10))
    waiting = asyncio.ensure_future(subscribers.first(SUBSCRIBER, "MAC", REQUEST))
    await settle()

    sender.under_way[0].set_result(AttemptOutcome())
    await settle()

    assert len(sender.under_way) == SLOTS + 1
    await end(sender)
    assert (await waiting).delivered


async def test_one_who_stops_waiting_leaves_the_entry_to_others() -> None:
    sender = HangingSender()
    subscribers = await full(sender, timedelta(seconds=10))
    waiting = asyncio.ensure_future(subscribers.first(SUBSCRIBER, "MAC", REQUEST))
    await settle()
    waiting.cancel()
    await asyncio.wait([waiting])

    sender.under_way[0].set_result(AttemptOutcome())
    await settle()
    another = asyncio.ensure_future(subscribers.first(SUBSCRIBER, "MAC", REQUEST))
    await settle()

    assert len(sender.under_way) == SLOTS + 1
    await end(sender)
    assert (await another).delivered


def room(endpoint: Endpoint) -> int:
    """How many retries may run at once."""
    endpoint.retrying = 0
    while endpoint.has_room:
        endpoint.retrying += 1
    return endpoint.retrying


def fail(endpoint: Endpoint, clock: FakeClock, duration: timedelta = DOWN_AFTER) -> None:
    """Nothing but failures for so long."""
    for _ in range(3):
        endpoint.heard(AttemptOutcome("answered 500"), "MAC")
    clock.advance(duration)
    endpoint.heard(AttemptOutcome("answered 500"), "MAC")


def test_retries_shrink_to_a_trickle_while_it_is_down_and_not_after() -> None:
    clock = FakeClock()
    endpoint = Endpoint("config", clock)

    fail(endpoint, clock)
    during = room(endpoint)
    endpoint.heard(AttemptOutcome(), "MAC")

    assert (during, room(endpoint)) == (FEWEST_RETRIES, MOST_RETRIES)


def test_failures_within_a_few_seconds_are_no_outage() -> None:
    clock = FakeClock()
    endpoint = Endpoint("config", clock)

    for _ in range(40):
        fail(endpoint, clock, DOWN_AFTER / 2)
        endpoint.heard(AttemptOutcome(), "MAC")

    assert not endpoint.is_down
    assert endpoint.recovered_at < 0


def test_two_failures_are_no_outage_however_long_ago() -> None:
    clock = FakeClock()
    endpoint = Endpoint("config", clock)

    endpoint.heard(AttemptOutcome("answered 500"), "MAC")
    clock.advance(DOWN_AFTER * 10)
    endpoint.heard(AttemptOutcome("answered 500"), "MAC")

    assert not endpoint.is_down


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_is_over() -> None:
    clock = FakeClock()
    endpoint = Endpoint("config", clock)

    with capture_logs() as logs:
        fail(endpoint, clock)
        fail(endpoint, clock)
        endpoint.heard(AttemptOutcome(), "MAC")
        endpoint.heard(AttemptOutcome(), "MAC")

    assert [line["event"] for line in logs] == ["subscriber_failing", "subscriber_recovered"]
    assert logs[0]["reason"] == "answered 500"


async def test_a_probe_of_a_paused_subscriber_that_is_cut_short_is_made_again_soon() -> None:
    sender, clock = HangingSender(), FakeClock()
    subscribers = Subscribers(FixedSubscriptions(), sender, clock, Metrics())
    endpoint = subscribers.endpoint(SUBSCRIBER.id)
    endpoint.heard(AttemptOutcome("answered 410", status=410), "MAC")
    clock.advance(timedelta(hours=1))
    probe = asyncio.ensure_future(subscribers.first(SUBSCRIBER, "MAC", REQUEST))
    await settle()
    probe.cancel()
    await settle()
    during = await subscribers.first(SUBSCRIBER, "MAC", REQUEST)
    clock.advance(timedelta(minutes=1))

    assert (during.counts, len(sender.under_way)) == (False, 1)
    assert endpoint.may_ask()
