"""Attempts are counted and noted without a write of their own; on fakes."""

from datetime import timedelta

import pytest

from services.webhook.endpoints.activity import MOST_FAILURES, RecordedSender
from services.webhook.endpoints.request import EventBody, EventRequest, single
from services.webhook.endpoints.sender import AttemptOutcome
from shared.domain.errors import StoreUnavailable
from shared.domain.subscription import Activity, AttemptRecord, Subscription
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.webhook_history import FakeActivities

SUBSCRIPTION = Subscription("1", "https://receiver.example/")
TOOK = AttemptOutcome(status=None, latency=timedelta(milliseconds=5))
FAILED = AttemptOutcome("answered 500", status=500, answer="no", latency=timedelta(milliseconds=7))


class Receiver:
    def __init__(self) -> None:
        self.outcome = TOOK

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        return self.outcome


class World:
    def __init__(self) -> None:
        self.receiver, self.activities, self.clock = Receiver(), FakeActivities(), FakeClock()
        self.sender = RecordedSender(self.receiver, self.activities, self.clock, "p")

    async def send(self, outcome: AttemptOutcome, event: str = "e", attempt: int = 1) -> None:
        self.receiver.outcome = outcome
        request = single(event, "mdm.Connect", b"{}", attempt)
        assert await self.sender.send(SUBSCRIPTION, request) is outcome

    async def stored(self) -> Activity:
        await self.sender.flush()
        [activity] = await self.activities.of("1")
        return activity


async def test_successes_are_counted_and_the_latest_is_kept() -> None:
    world = World()
    await world.send(TOOK, "e1")
    await world.send(TOOK, "e2", attempt=3)
    now = world.clock.now()

    stored = await world.stored()

    latest = AttemptRecord("e2", now, 3, 1, None, TOOK.latency)
    assert stored == Activity("1", "p", now, 2, 0, latest)
    assert world.activities.writes == 1


async def test_failures_are_kept_with_what_was_answered() -> None:
    world = World()
    await world.send(FAILED, "e1")

    stored = await world.stored()

    attempt = AttemptRecord(
        "e1", world.clock.now(), 1, 1, 500, FAILED.latency, "answered 500", "no"
    )
    assert (stored.delivered, stored.failed, stored.failures) == (0, 1, (attempt,))


async def test_only_the_latest_failures_are_kept() -> None:
    world = World()
    for n in range(MOST_FAILURES + 5):
        await world.send(FAILED, f"e{n}")

    stored = await world.stored()

    assert stored.failed == MOST_FAILURES + 5
    assert [each.event_id for each in stored.failures] == [
        f"e{n}" for n in range(5, MOST_FAILURES + 5)
    ]


async def test_a_request_of_several_events_delivers_each() -> None:
    world = World()
    events = tuple(EventBody(f"e{n}", None, b"{}") for n in range(3))

    await world.sender.send(SUBSCRIPTION, EventRequest(events))

    stored = await world.stored()
    assert stored.delivered == 3
    assert stored.last_success is not None
    assert (stored.last_success.event_id, stored.last_success.events) == ("e0", 3)


async def test_what_did_not_change_is_not_written_again() -> None:
    world = World()
    await world.send(TOOK)
    await world.stored()

    await world.stored()
    assert world.activities.writes == 1
    await world.send(TOOK)
    await world.stored()

    assert world.activities.writes == 2


async def test_what_could_not_be_written_is_written_later() -> None:
    world = World()
    await world.send(TOOK)
    note = world.activities.note

    async def away(activities: object) -> None:
        raise StoreUnavailable("away")

    world.activities.note = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await world.sender.flush()
    world.activities.note = note  # type: ignore[method-assign]

    assert (await world.stored()).delivered == 1


async def test_what_was_removed_is_forgotten() -> None:
    world = World()
    await world.send(TOOK)
    world.sender.forget("1")

    await world.sender.flush()

    assert world.activities.stored == {}
