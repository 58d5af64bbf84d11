"""Promises of the bounds on attempts: requests at once and a second, batches, and changes of them."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.webhook.endpoints.endpoint import PAUSED, Endpoint
from services.webhook.endpoints.request import EventBody, EventRequest, single
from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.endpoints.slots import BUSY, LARGEST_BATCH, LEASED_PATIENCE, PATIENCE
from services.webhook.endpoints.subscribers import Subscribers
from shared.domain.subscription import (
    BodyForm,
    DeliveryLimits,
    Subscription,
    SubscriptionState,
)
from shared.telemetry.metrics import Metrics
from tests.support.delivery_rig import FixedSubscriptions
from tests.support.fakes.clock import FakeClock, settle

SUBSCRIBER = Subscription(
    "s", "http://anna:secret@receiver.invalid/", limits=DeliveryLimits(concurrency=2)
)
BATCHES = replace(SUBSCRIBER, limits=DeliveryLimits(concurrency=1), form=BodyForm(batch=3))
TAKEN = AttemptOutcome()
GONE = AttemptOutcome("answered 410", status=410)


class HangingSender:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.under_way: list[asyncio.Future[AttemptOutcome]] = []
        self.posted: list[list[str]] = []
        self.attempts: list[int] = []
        self.urls: list[str] = []

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        self.under_way.append(asyncio.get_running_loop().create_future())
        self.posted.append([event.event_id for event in request.events])
        self.attempts.append(request.attempt)
        self.urls.append(subscription.url)
        return await self.under_way[-1]


class Desk:
    """Subscribers that hang, and those who ask them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sender = HangingSender()
        self.portion = 1.0
        self.subscriptions = FixedSubscriptions()
        self.subscribers = Subscribers(
            self.subscriptions, self.sender, self.clock, Metrics(), portion=lambda: self.portion
        )
        self.asking: dict[str, asyncio.Task[AttemptOutcome]] = {}

    async def follow(self, *subscriptions: Subscription) -> None:
        self.subscriptions.subscriptions = list(subscriptions)
        await self.subscribers.read()

    async def first(self, *names: str, subscription: Subscription = SUBSCRIBER) -> None:
        for name in names:
            await self.ask(
                name, self.subscribers.first(subscription, name, single(name, None, b""))
            )

    async def again(
        self, *names: str, subscription: Subscription = SUBSCRIBER, is_alone: bool = False
    ) -> None:
        for name in names:
            request = single(name, None, b"", attempt=2)
            await self.ask(name, self.subscribers.again(subscription, name, request, is_alone))

    async def ask(self, name: str, asked: "asyncio.Future[AttemptOutcome]") -> None:
        self.asking[name] = asyncio.ensure_future(asked)
        await settle()

    async def answer(self, number: int, outcome: AttemptOutcome = TAKEN) -> None:
        self.sender.under_way[number].set_result(outcome)
        await settle()

    async def wait(self, duration: timedelta) -> None:
        self.clock.advance(duration)
        self.subscribers.tick()
        await settle()

    def outcome(self, name: str) -> AttemptOutcome | None:
        return self.asking[name].result() if self.asking[name].done() else None


@pytest.fixture
async def desk() -> Desk:
    desk = Desk()
    await desk.follow(SUBSCRIBER)
    return desk


# --- so many at once


async def test_who_waits_behind_a_subscriber_that_hangs_is_turned_away(desk: Desk) -> None:
    await desk.first("a", "b", "c")
    await desk.wait(PATIENCE - timedelta(seconds=1))
    before = desk.outcome("c")
    await desk.wait(timedelta(seconds=1))

    assert before is None
    assert desk.outcome("c") == BUSY
    assert not BUSY.counts
    assert desk.sender.posted == [["a"], ["b"]]


async def test_once_it_hangs_nobody_waits_until_a_slot_is_free(desk: Desk) -> None:
    await desk.first("a", "b", "c")
    await desk.wait(PATIENCE)
    await desk.first("d")
    await desk.answer(0)
    await desk.first("e", "f")

    assert desk.outcome("d") == BUSY
    assert desk.outcome("f") is None
    assert desk.sender.posted == [["a"], ["b"], ["e"]]


async def test_a_retry_that_waits_is_turned_away_before_its_lease_ends(desk: Desk) -> None:
    await desk.first("a", "b")
    await desk.again("c")
    await desk.wait(LEASED_PATIENCE)
    await desk.first("d")

    assert desk.outcome("c") == BUSY
    assert desk.outcome("d") is None


async def test_a_slot_that_is_free_goes_to_who_waits(desk: Desk) -> None:
    await desk.first("a", "b", "c")

    await desk.answer(0)

    assert desk.sender.posted[2] == ["c"]


async def test_one_who_stops_waiting_leaves_the_slot_to_others(desk: Desk) -> None:
    await desk.first("a", "b", "c")
    desk.asking["c"].cancel()
    await settle()
    await desk.answer(0)
    await desk.first("d")

    assert desk.sender.posted[2:] == [["d"]]


async def test_one_who_is_cancelled_when_its_slot_comes_hands_it_on(desk: Desk) -> None:
    await desk.first("a", "b", "c", "d")
    desk.sender.under_way[0].set_result(AttemptOutcome())
    while not desk.asking["a"].done():
        await asyncio.sleep(0)
    desk.asking["c"].cancel()
    await settle()

    assert ["d"] in desk.sender.posted


async def test_an_attempt_that_is_cut_short_gives_its_slot_back(desk: Desk) -> None:
    await desk.first("a", "b", "c")
    desk.asking["a"].cancel()
    await settle()

    assert desk.sender.posted[2] == ["c"]


async def test_first_attempts_and_retries_that_wait_take_turns(desk: Desk) -> None:
    await desk.first("a", "b", "c", "d", "e")
    await desk.again("x", "y", "z")
    for number in range(6):
        await desk.answer(number)

    kinds = ["retry" if name[0] in "xyz" else "first" for [name] in desk.sender.posted[2:]]
    assert kinds == ["first", "retry"] * 3 or kinds == ["retry", "first"] * 3


async def test_another_subscriber_has_slots_of_its_own(desk: Desk) -> None:
    other = replace(SUBSCRIBER, id="other")
    await desk.follow(SUBSCRIBER, other)
    await desk.first("a", "b", "c")
    await desk.first("d", subscription=other)

    assert desk.sender.posted == [["a"], ["b"], ["d"]]


# --- so many a second


async def test_a_rate_holds_over_any_longer_time(desk: Desk) -> None:
    limited = replace(SUBSCRIBER, limits=DeliveryLimits(rate=10.0))
    await desk.follow(limited)
    await desk.first(*map(str, range(40)), subscription=limited)
    at_once = len(desk.sender.posted)
    for _ in range(20):
        await desk.wait(timedelta(milliseconds=50))

    assert at_once <= 2
    assert len(desk.sender.posted) - at_once == pytest.approx(10, abs=1)


async def test_a_replica_keeps_to_its_portion_of_the_rate(desk: Desk) -> None:
    limited = replace(SUBSCRIBER, limits=DeliveryLimits(rate=10.0))
    desk.portion = 0.25
    await desk.follow(limited)
    await desk.first(*map(str, range(40)), subscription=limited)
    at_once = len(desk.sender.posted)
    for _ in range(80):
        await desk.wait(timedelta(milliseconds=50))

    assert len(desk.sender.posted) - at_once == pytest.approx(10, abs=1)


async def test_under_a_rate_no_retry_is_leased_before_the_one_that_waits_is_posted(
    desk: Desk,
) -> None:
    limited = replace(SUBSCRIBER, limits=DeliveryLimits(rate=1.0))
    await desk.follow(limited)
    endpoint = desk.subscribers.endpoint("s")
    await desk.again("a", subscription=limited)
    at_first = endpoint.has_room
    await desk.again("b", subscription=limited)
    while_one_waits = endpoint.has_room
    await desk.wait(timedelta(seconds=1))

    assert desk.sender.posted == [["a"], ["b"]]
    assert (at_first, while_one_waits, endpoint.has_room) == (True, False, True)


# --- together


async def test_events_that_wait_share_a_request_as_far_as_the_batch_goes(desk: Desk) -> None:
    await desk.follow(BATCHES)
    await desk.first("a", "b", "c", "d", "e", subscription=BATCHES)
    await desk.answer(0)
    await desk.answer(1)

    assert desk.sender.posted == [["a"], ["b", "c", "d"], ["e"]]
    assert [desk.outcome(name) for name in "abcd"] == [AttemptOutcome()] * 4


async def test_one_failure_is_the_outcome_of_all_in_the_request(desk: Desk) -> None:
    await desk.follow(BATCHES)
    await desk.first("a", "b", "c", subscription=BATCHES)
    await desk.answer(0)
    refused = AttemptOutcome("answered 500", status=500)
    await desk.answer(1, refused)

    assert desk.outcome("b") == desk.outcome("c") == replace(refused, is_shared=True)


async def test_a_request_that_is_cut_short_is_so_for_all_and_costs_nothing(desk: Desk) -> None:
    await desk.follow(BATCHES)
    await desk.first("a", "b", "c", subscription=BATCHES)
    await desk.answer(0)
    desk.asking["b"].cancel()
    await settle()

    outcome = desk.outcome("c")
    assert outcome is not None
    assert not outcome.delivered
    assert not outcome.counts


async def test_one_that_failed_before_goes_alone(desk: Desk) -> None:
    await desk.follow(BATCHES)
    await desk.again("a", "b", subscription=BATCHES)
    await desk.again("c", subscription=BATCHES, is_alone=True)
    await desk.again("d", subscription=BATCHES)
    for number in range(3):
        await desk.answer(number)

    assert desk.sender.posted == [["a"], ["b"], ["c"], ["d"]]


async def test_retries_share_a_request_and_its_attempt_is_the_highest(desk: Desk) -> None:
    await desk.follow(BATCHES)
    await desk.again("a", "b", "c", subscription=BATCHES)
    await desk.answer(0)

    assert desk.sender.posted == [["a"], ["b", "c"]]
    assert desk.sender.attempts == [2, 2]


async def test_events_of_replays_share_no_request_with_others(desk: Desk) -> None:
    await desk.follow(BATCHES)
    await desk.again("a", "b", subscription=BATCHES)
    replayed = EventRequest((EventBody("c", None, b""),), 2, replay="r")
    await desk.ask("c", desk.subscribers.again(BATCHES, "c", replayed))
    await desk.answer(0)
    await desk.answer(1)

    assert desk.sender.posted == [["a"], ["b"], ["c"]]


async def test_the_others_of_a_request_whose_first_one_is_cancelled_go_with_the_next(
    desk: Desk,
) -> None:
    await desk.follow(BATCHES)
    await desk.first("a", "b", "c", "d", "e", subscription=BATCHES)
    desk.sender.under_way[0].set_result(TAKEN)
    while not desk.asking["a"].done():
        await asyncio.sleep(0)
    desk.asking["b"].cancel()
    await settle()
    await desk.answer(1)

    assert desk.sender.posted == [["a"], ["c", "d", "e"]]
    assert [desk.outcome(name) for name in "cde"] == [TAKEN] * 3


async def test_a_request_holds_four_mebibytes_and_a_larger_event_goes_alone(desk: Desk) -> None:
    await desk.follow(BATCHES)
    half = b"x" * (LARGEST_BATCH // 2)
    bodies = {"a": half, "b": half, "c": half, "d": b"1", "e": half + half + b"1", "f": b"1"}
    for name, body in bodies.items():
        await desk.ask(name, desk.subscribers.first(BATCHES, name, single(name, None, body)))
    for number in range(4):
        await desk.answer(number)

    assert desk.sender.posted == [["a"], ["b", "c"], ["d"], ["e"], ["f"]]


# --- changes


async def test_a_changed_limit_counts_from_the_next_read(desk: Desk) -> None:
    await desk.first("a", "b", "c")

    await desk.follow(replace(SUBSCRIBER, limits=DeliveryLimits(concurrency=3)))
    await settle()

    assert desk.sender.posted[2:] == [["c"]]


async def test_one_that_is_gone_leaves_nothing_behind(desk: Desk) -> None:
    await desk.first("a")
    await desk.answer(0, GONE)
    paused = desk.subscribers.paused_count
    await desk.follow()

    assert (paused, desk.subscribers.paused_count) == (1, 0)
    assert desk.subscribers.get("s") is None


async def test_one_that_is_deleted_gets_nothing(desk: Desk) -> None:
    await desk.follow(replace(SUBSCRIBER, state=SubscriptionState.DELETED))

    assert desk.subscribers.current() == []
    assert desk.subscribers.get("s") is None


async def test_a_probe_of_a_paused_subscriber_that_is_cut_short_is_made_again_soon(
    desk: Desk,
) -> None:
    desk.subscribers.endpoint("s").heard(GONE, ["MAC"])
    desk.clock.advance(timedelta(hours=1))
    await desk.first("probe")
    desk.asking["probe"].cancel()
    await settle()
    await desk.first("during")
    desk.clock.advance(timedelta(minutes=1))
    await desk.first("after")

    assert desk.outcome("during") == PAUSED
    assert desk.sender.posted == [["probe"], ["after"]]


async def test_who_waits_for_a_slot_is_turned_away_when_the_subscriber_is_gone(desk: Desk) -> None:
    await desk.first("a", "b", "c")
    await desk.answer(0, GONE)

    assert desk.outcome("c") == PAUSED


async def test_a_raised_rate_counts_at_once(desk: Desk) -> None:
    slow = replace(SUBSCRIBER, limits=DeliveryLimits(rate=0.001))
    await desk.follow(slow)
    await desk.first("e1", "e2", subscription=slow)
    await desk.follow(replace(slow, limits=DeliveryLimits(rate=1.0)))
    await desk.wait(timedelta(seconds=1))

    assert desk.sender.posted == [["e1"], ["e2"]]


@pytest.mark.parametrize("state", [SubscriptionState.PAUSED, SubscriptionState.DELETED])
async def test_who_waits_for_a_slot_is_not_posted_to_one_that_is_not_active_any_more(
    desk: Desk, state: SubscriptionState
) -> None:
    await desk.first("e1", "e2", "e3")
    await desk.follow(replace(SUBSCRIBER, state=state))
    await desk.answer(0)

    assert desk.sender.posted == [["e1"], ["e2"]]
    outcome = desk.outcome("e3")
    assert outcome is not None
    assert not outcome.delivered
    assert not outcome.counts


async def test_who_waits_for_a_slot_is_posted_to_the_new_url(desk: Desk) -> None:
    await desk.first("e1", "e2", "e3")
    changed = replace(SUBSCRIBER, url="http://new.invalid/")
    await desk.follow(changed)
    await desk.answer(0)

    assert desk.sender.urls == [SUBSCRIBER.url, SUBSCRIBER.url, changed.url]


async def test_a_run_that_waits_for_a_slot_is_no_batch_where_none_are_asked_for_any_more(
    desk: Desk,
) -> None:
    await desk.follow(BATCHES)
    await desk.first("e1", subscription=BATCHES)
    run = EventRequest((EventBody("e2", None, b""), EventBody("e3", None, b"")))
    await desk.ask("e2", asyncio.ensure_future(desk.subscribers.first(BATCHES, "e2", run)))
    await desk.follow(replace(BATCHES, form=BodyForm()))
    await desk.answer(0)

    assert desk.sender.posted == [["e1"]]
    outcome = desk.outcome("e2")
    assert outcome is not None
    assert not outcome.counts


@pytest.mark.parametrize("rate", [5e-324, 1e-300])
async def test_no_rate_stops_the_other_subscriptions(desk: Desk, rate: float) -> None:
    desk.portion = 0.5
    slow = replace(SUBSCRIBER, id="slow", limits=DeliveryLimits(rate=rate))
    await desk.follow(slow, SUBSCRIBER)
    await desk.first("e1", "e2", subscription=slow)
    await desk.wait(timedelta(days=1))

    assert desk.sender.posted == [["e1"]]
    await desk.follow(replace(slow, limits=DeliveryLimits(rate=1.0)), SUBSCRIBER)
    await desk.answer(0)
    await desk.wait(timedelta(seconds=3))
    await desk.first("e3", subscription=slow)
    assert desk.sender.posted[-1] == ["e3"]


async def test_one_that_cannot_be_followed_or_judged_stops_no_other_one() -> None:
    async def judge(subscription: Subscription, endpoint: Endpoint) -> None:
        judged.append(subscription.id)
        if subscription.id == "bad":
            raise ValueError("a bug")

    def portion() -> float:
        if not followed:
            followed.append("bad")
            raise ValueError("a bug")
        return 1.0

    judged: list[str] = []
    followed: list[str] = []
    bad = replace(SUBSCRIBER, id="bad")
    subscribers = Subscribers(
        FixedSubscriptions(bad, BATCHES),
        HangingSender(),
        FakeClock(),
        Metrics(),
        portion=portion,
        verdicts=judge,
    )
    with pytest.raises(ExceptionGroup, match="could not be followed"):
        await subscribers.read()
    with pytest.raises(ExceptionGroup, match="could not be judged"):
        await subscribers.judge()

    assert subscribers.was_read.is_set()
    assert subscribers.endpoint(BATCHES.id).slots.most_retries == BATCHES.form.batch
    assert judged == ["bad", BATCHES.id]
