"""What deleted and silent subscriptions leave behind is removed; on fakes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from services.webhook.upkeep.cleanup import MOST_PAGES, PAGE, Cleanup
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.domain.subscription import (
    Activity,
    Delivery,
    DeliveryQueueKey,
    Replay,
    ReplayChoice,
    Subscription,
    SubscriptionState,
)
from shared.telemetry.metrics import Metrics
from shared.times import event_ids_from, nanoseconds
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.deliveries import FakeDeliveries
from tests.support.fakes.journal import FakeJournal
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.fakes.webhook_history import FakeActivities, FakeDeliveryRecords, FakeReplays

RETENTION = timedelta(days=30)
GONE = Subscription("gone", "https://gone.example/", state=SubscriptionState.DELETED)


class World:
    def __init__(self, *subscriptions: Subscription) -> None:
        self.clock, self.metrics = FakeClock(), Metrics()
        self.subscriptions = FakeSubscriptions(*subscriptions)
        self.deliveries = FakeDeliveries()
        self.replays, self.activities = FakeReplays(), FakeActivities()
        self.journal = FakeJournal()
        self.forgotten: list[str] = []
        self.cleanup = Cleanup(
            self.subscriptions,
            FakeDeliveryRecords(self.deliveries.records),
            self.replays,
            self.activities,
            self.journal,
            self.clock,
            self.metrics,
            RETENTION,
            self.forgotten.append,
        )

    async def store(self, subscription: str, *events: str) -> None:
        for event in events:
            queue = DeliveryQueueKey(subscription, f"D{event}")
            await self.deliveries.store([Delivery(queue, event, 1)])

    def left(self) -> list[str]:
        return sorted(self.deliveries.records)


async def test_a_deleted_subscription_loses_its_deliveries_and_after_a_minute_its_record() -> None:
    world = World(GONE, Subscription("kept", "https://kept.example/"))
    await world.store("gone", "1", "2")
    await world.deliveries.skip("gone:2", b"body")
    await world.store("kept", "1")
    await world.replays.add(Replay("r", "gone", ReplayChoice(), world.clock.now()))
    await world.activities.note([Activity("gone", "p", world.clock.now())])

    await world.cleanup.clean()

    assert world.left() == ["kept:1"]
    world.clock.advance(timedelta(seconds=59))
    await world.cleanup.clean()
    assert set(world.subscriptions.stored) == {"gone", "kept"}
    world.clock.advance(timedelta(seconds=1))
    await world.cleanup.clean()
    assert set(world.subscriptions.stored) == {"kept"}
    assert (world.replays.stored, world.activities.stored) == ({}, {})
    assert world.forgotten == ["gone"]


async def test_a_record_stays_while_deliveries_still_come() -> None:
    world = World(GONE)
    await world.cleanup.clean()
    world.clock.advance(timedelta(seconds=59))
    await world.store("gone", "late")
    await world.cleanup.clean()
    world.clock.advance(timedelta(seconds=59))

    await world.cleanup.clean()

    assert set(world.subscriptions.stored) == {"gone"}
    assert world.left() == []


async def test_a_large_backlog_is_removed_in_several_rounds() -> None:
    world = World(GONE)
    await world.store("gone", *(f"{n:06}" for n in range(PAGE * MOST_PAGES + 1)))

    await world.cleanup.clean()
    assert world.left() == [f"gone:{PAGE * MOST_PAGES:06}"]
    await world.cleanup.clean()

    assert world.left() == []


@pytest.mark.parametrize(
    ("state", "is_removed"),
    [
        (SubscriptionState.PAUSED, True),
        (SubscriptionState.DISABLED, True),
        (SubscriptionState.PREPARING, True),
        (SubscriptionState.ACTIVE, False),
    ],
)
async def test_an_event_that_waits_leaves_with_its_event_in_the_journal(
    state: SubscriptionState, is_removed: bool
) -> None:
    world = World(replace(GONE, state=state))
    end = world.clock.now() - RETENTION
    old, dead = (event_ids_from(end - timedelta(milliseconds=1)) + rest for rest in ("-1", "-2"))
    new = event_ids_from(end) + "-7000"
    await world.store("gone", old, dead, new)
    await world.deliveries.skip(f"gone:{dead}", b"body")

    with structlog.testing.capture_logs() as logs:
        await world.cleanup.clean()

    expected = {f"gone:{dead}", f"gone:{new}"} | (set() if is_removed else {f"gone:{old}"})
    assert set(world.left()) == expected
    noted = [each for each in logs if each["event"] == "deliveries_expired"]
    assert [each["count"] for each in noted] == ([1] if is_removed else [])
    assert world.metrics.deliveries_expired._value.get() == len(noted)


async def test_an_event_that_is_younger_than_its_id_waits_on() -> None:
    world = World(replace(GONE, state=SubscriptionState.PAUSED))
    now = world.clock.now()
    id = event_ids_from(now - 2 * RETENTION) + "-7000"
    key = EnrollmentKey("MAC", device="MAC", udid="MAC")
    event = Event(id, Topic.COMMAND_ACKNOWLEDGED, key, nanoseconds(now), b"{}", "w", 1)
    await world.journal.append([event])
    await world.store("gone", id)

    await world.cleanup.clean()
    assert world.left() == [f"gone:{id}"]
    world.journal.events.clear()
    await world.cleanup.clean()
    assert world.left() == []


async def test_rule_14_a_dead_letter_that_is_retried_during_a_pause_is_kept() -> None:
    world = World(replace(GONE, state=SubscriptionState.PAUSED))
    old = event_ids_from(world.clock.now() - RETENTION - timedelta(days=1)) + "-7000"
    await world.store("gone", old)
    await world.deliveries.skip(f"gone:{old}", b"the body")
    assert await world.deliveries.retry([f"gone:{old}"], world.clock.now()) == 1

    await world.cleanup.clean()

    assert world.left() == [f"gone:{old}"]
    assert await world.deliveries.body(f"gone:{old}") == b"the body"
    world.subscriptions.stored["gone"] = GONE
    await world.cleanup.clean()
    assert world.left() == []


async def test_a_dead_letter_without_its_body_that_is_tried_again_expires() -> None:
    world = World(replace(GONE, state=SubscriptionState.PAUSED))
    old = event_ids_from(world.clock.now() - RETENTION - timedelta(days=1)) + "-7000"
    await world.store("gone", old)
    await world.deliveries.skip(f"gone:{old}", None)
    await world.deliveries.retry([f"gone:{old}"], world.clock.now())

    await world.cleanup.clean()

    assert world.left() == []


async def test_dead_letters_do_not_hide_the_expired_events_behind_them() -> None:
    world = World(replace(GONE, state=SubscriptionState.PAUSED))
    dead = [f"0000-{n:06}" for n in range(PAGE)]
    await world.store("gone", *dead, "0001-last")
    for event in dead:
        await world.deliveries.skip(f"gone:{event}", None)

    await world.cleanup.clean()

    assert len(world.left()) == PAGE
    assert "gone:0001-last" not in world.left()


def test_ids_of_events_are_cut_by_their_time() -> None:
    moment = datetime(2025, 8, 29, 1, 2, 3, 4000, tzinfo=UTC)
    milliseconds = int(moment.timestamp() * 1000)
    uuid = f"{milliseconds:012x}"

    assert event_ids_from(moment) == f"{uuid[:8]}-{uuid[8:]}"
    assert event_ids_from(datetime(1960, 1, 1, tzinfo=UTC)) == "00000000-0000"


async def test_what_another_replica_removed_is_forgotten_too() -> None:
    world = World(GONE)
    await world.cleanup.clean()
    await world.subscriptions.remove("gone")
    await world.cleanup.clean()
    await world.cleanup.clean()

    assert world.forgotten == ["gone"]


async def test_what_waits_for_the_configured_one_expires_where_that_is_gone() -> None:
    world = World()
    old = (
        event_ids_from(world.clock.now() - RETENTION - timedelta(days=1))
        + "-7000-8000-000000000000"
    )
    new = event_ids_from(world.clock.now()) + "-7000-8000-000000000000"
    await world.store("config", old, new)

    await world.cleanup.clean()
    assert world.left() == [f"config:{new}"]

    world.subscriptions.configured = Subscription("config", "https://kept.example/")
    world.clock.advance(2 * RETENTION)
    await world.cleanup.clean()
    assert world.left() == [f"config:{new}"]
