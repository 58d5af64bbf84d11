"""Replays, and subscriptions with a start in the past: the API and the worker, on fakes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.webhook.history.worker import FEW, PAGE, SETTLED, STALE_AFTER
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, Inventory
from shared.domain.event import Event, Topic
from shared.domain.subscription import (
    Delivery,
    DeliveryQueueKey,
    DeliveryState,
    EventFilters,
    Subscription,
    SubscriptionState,
)
from shared.times import event_ids_from, nanoseconds, rfc3339
from tests.support.webhook_world import CONFIGURED, URL, WebhookApi

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")
STORED = Subscription("1", URL, revision="r")
HOUR = timedelta(hours=1)


class World(WebhookApi):
    def __init__(self, *stored: Subscription) -> None:
        super().__init__(*(stored or (STORED,)), configured=CONFIGURED)
        self.start = self.clock.now()
        self._number = 0

    async def event(
        self,
        ago: timedelta = timedelta(minutes=1),
        topic: Topic = Topic.CONNECT,
        key: EnrollmentKey = MAC,
        **more: Any,
    ) -> str:
        """An event in the journal; its id."""
        at = self.start - ago
        self._number += 1
        id = f"{event_ids_from(at)}-7000-8000-{self._number:012x}"
        event = Event(id, topic, key, nanoseconds(at), b"{}", "w", self._number, **more)
        assert await self.journal.append([event]) == [True]
        return id

    async def replay(self, **asked: Any) -> str:
        status, answer = await self.ask("POST", "/1/replay", asked)
        assert status == 202, answer
        return answer["id"]  # type: ignore[no-any-return]

    async def finish(self) -> None:
        for _ in range(5):
            self.clock.advance(timedelta(seconds=10))
            await self.worker.look()

    async def state(self, replay: str) -> tuple[str, int, float]:
        _, answer = await self.ask("GET", f"/1/replays/{replay}")
        return answer["state"], answer["stored"], answer["progress"]

    def stored(self) -> list[Delivery]:
        found = [owed.delivery for owed in self.deliveries.records.values()]
        return sorted(found, key=lambda delivery: delivery.number)

    def events(self) -> list[str]:
        return [delivery.event_id for delivery in self.stored()]


def ago(world: World, duration: timedelta) -> str:
    return rfc3339(world.start - duration)


async def test_a_replay_stores_the_events_of_its_time_beside_new_ones() -> None:
    world = World()
    await world.event(2 * HOUR)
    first = await world.event(HOUR)
    second = await world.event(HOUR / 2, key=PAD)
    await world.event(HOUR / 4)
    asked = {"since": ago(world, HOUR), "until": ago(world, HOUR / 4)}

    replay = await world.replay(**asked)
    assert await world.state(replay) == ("running", 0, 0.0)
    await world.finish()

    at = nanoseconds(world.start - HOUR)
    [mac, pad] = world.stored()
    assert (mac.event_id, mac.number, mac.topic) == (first, at, "mdm.Connect")
    assert mac.queue == DeliveryQueueKey("1", "MAC", f"replay.{replay}")
    assert (pad.event_id, pad.queue.device) == (second, "PAD")
    assert mac.queue.replay == replay
    assert mac.state is DeliveryState.PENDING
    assert await world.state(replay) == ("done", 2, 1.0)
    assert [entry.action for entry in world.audit.entries] == ["webhook.replay"]


async def test_a_replay_of_many_events_goes_through_all_pages() -> None:
    world = World()
    made = [await world.event(timedelta(seconds=n)) for n in range(3 * PAGE, 0, -1)]

    replay = await world.replay(since=ago(world, HOUR))
    await world.finish()

    assert world.events() == made
    assert await world.state(replay) == ("done", 3 * PAGE, 1.0)


async def test_a_replay_has_the_events_of_its_time_though_their_ids_are_of_another() -> None:
    world = World()
    for age, time in ((20 * HOUR, HOUR / 2), (HOUR / 2, 2 * HOUR)):
        at = world.start - time
        id = f"{event_ids_from(world.start - age)}-7000-8000-000000000000"
        event = Event(id, Topic.CONNECT, MAC, nanoseconds(at), b"{}", "w", 1)
        await world.journal.append([event])

    await world.replay(since=ago(world, HOUR))
    await world.finish()

    assert [each.number for each in world.stored()] == [nanoseconds(world.start - HOUR / 2)]


async def test_a_replay_may_be_of_topics_that_the_subscription_asks_for() -> None:
    world = World()
    wanted = await world.event(topic=Topic.CHECK_OUT)
    await world.event(topic=Topic.CONNECT)
    await world.event(topic=Topic.COMMAND_EXPIRED)

    await world.replay(since=ago(world, HOUR), topics=["mdm.CheckOut", "macromdm.CommandExpired"])
    await world.finish()

    assert world.events() == [wanted]


async def test_a_replay_may_be_of_one_device() -> None:
    world = World()
    made = [await world.event(timedelta(minutes=n)) for n in range(2 * FEW + 1, 0, -1)]
    await world.event(key=PAD)
    await world.event(2 * HOUR)

    replay = await world.replay(since=ago(world, HOUR), device="MAC")
    await world.finish()

    assert world.events() == made
    assert await world.state(replay) == ("done", len(made), 1.0)


async def test_a_replay_may_name_its_events() -> None:
    world = World()
    made = [await world.event(timedelta(minutes=n)) for n in range(FEW + 2, 0, -1)]
    await world.event()

    replay = await world.replay(event_ids=[*made, made[0], "unknown"])
    await world.worker.look()

    assert world.events() == made
    assert await world.state(replay) == ("done", len(made), 1.0)


async def test_named_events_come_in_the_order_of_their_time_however_they_are_named() -> None:
    world = World()
    made = [await world.event(timedelta(minutes=n)) for n in range(2 * FEW, 0, -1)]
    stored, seen = world.deliveries.store, list[int]()

    async def store(deliveries: Sequence[Delivery]) -> list[int]:
        seen.extend(delivery.number for delivery in deliveries)
        return await stored(deliveries)

    world.deliveries.store = store  # type: ignore[method-assign]
    await world.replay(event_ids=made[::-1])
    await world.worker.look()

    assert len(seen) == 2 * FEW
    assert seen == sorted(seen)


async def test_a_replay_of_failures_tries_dead_letters_again() -> None:
    world = World()
    for event in ("a", "b", "c"):
        await world.deliveries.store([Delivery(DeliveryQueueKey("1", f"D{event}"), event, 1)])
    await world.deliveries.skip("1:a", None)
    await world.deliveries.skip("1:c", None)

    replay = await world.replay(failed=True)
    await world.worker.look()

    assert {each.state for each in world.stored()} == {DeliveryState.PENDING}
    assert await world.state(replay) == ("done", 2, 1.0)


async def test_the_filters_of_a_subscription_hold_for_its_replays() -> None:
    filters = EventFilters(serial_numbers=frozenset({"C02"}), statuses=frozenset({"Error"}))
    world = World(replace(STORED, filters=filters))
    enrolled = Enrollment(MAC, EnrollmentStatus.ENROLLED, inventory=Inventory(serial_number="C02"))
    world.enrollments.add(enrolled)
    wanted = await world.event(status="Error")
    await world.event(status="Idle")
    await world.event(key=PAD, status="Error")

    await world.replay(since=ago(world, HOUR))
    await world.finish()

    assert world.events() == [wanted]


async def test_an_event_that_leaves_the_journal_meanwhile_passes_no_filter() -> None:
    world = World(replace(STORED, filters=EventFilters(statuses=frozenset({"Error"}))))
    await world.event(status="Idle")
    read = world.journal.read
    world.journal.read = lambda ids: read([])  # type: ignore[method-assign]

    await world.replay(since=ago(world, HOUR))
    await world.finish()

    assert world.events() == []


async def test_an_event_that_cannot_be_read_stops_no_replay() -> None:
    """It waits in its delivery queue where its topic is known, whatever the filters, and is left out else."""
    filtered = replace(STORED, filters=EventFilters(frozenset({"MAC"})))
    for asked in ({"since": ""}, {"device": "MAC"}, {"event_ids": []}):
        world = World(filtered)
        events = [await world.event(HOUR / number) for number in range(2, 5)]
        world.journal.unreadable = {events[1]}
        by_ids = {"event_ids": events} if "event_ids" in asked else {}
        replay = await world.replay(**(by_ids or asked | {"since": ago(world, HOUR)}))
        other = await world.replay(since=ago(world, 2 * HOUR), topics=["mdm.CheckOut"])
        await world.finish()

        assert (await world.state(replay))[0] == "done"
        assert (await world.state(other))[0] == "done"
        is_known = "since" in asked
        assert world.events() == (events if is_known else [events[0], events[2]])


async def test_an_event_that_waits_already_stays_where_it_is() -> None:
    world = World()
    event = await world.event()
    waiting = Delivery(DeliveryQueueKey("1", "MAC"), event, 7)
    await world.deliveries.store([waiting])

    await world.replay(event_ids=[event])
    await world.worker.look()

    assert world.stored() == [waiting]


async def test_the_last_events_are_looked_at_once_they_are_surely_journaled() -> None:
    world = World()
    replay = await world.replay(since=ago(world, HOUR))
    world.clock.advance(SETTLED)
    await world.worker.look()
    late = await world.event(timedelta(seconds=1))

    assert (await world.state(replay))[0] == "running"
    await world.finish()

    assert world.events() == [late]
    assert (await world.state(replay))[0] == "done"


async def test_a_replay_whose_process_died_goes_on_in_another() -> None:
    world = World()
    event = await world.event()
    replay = await world.replay(since=ago(world, HOUR), until=ago(world, timedelta()))
    key = f"1:{replay}"
    world.replays.stored[key] = replace(world.replays.stored[key], owner="dead", heartbeats=4)

    await world.worker.look()
    world.clock.advance(STALE_AFTER - timedelta(seconds=1))
    await world.worker.look()
    assert world.events() == []
    world.clock.advance(timedelta(seconds=1))
    await world.worker.look()

    assert world.events() == [event]
    assert world.replays.stored[key].owner == "p"


async def test_a_replay_of_another_process_that_lives_is_left_to_it() -> None:
    world = World()
    await world.event()
    replay = await world.replay(since=ago(world, HOUR))
    key = f"1:{replay}"
    for beat in range(30):
        there = world.replays.stored[key]
        world.replays.stored[key] = replace(there, owner="other", heartbeats=beat)
        await world.worker.look()
        world.clock.advance(timedelta(seconds=1))

    assert world.events() == []


async def test_the_replay_of_a_deleted_subscription_ends() -> None:
    world = World()
    await world.event()
    replay = await world.replay(since=ago(world, HOUR))
    world.subscriptions.stored["1"] = replace(STORED, state=SubscriptionState.DELETED)

    await world.finish()

    assert world.events() == []
    assert world.replays.stored[f"1:{replay}"].state == "cancelled"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "since"),
        ({"event_ids": []}, "event_ids"),
        ({"event_ids": ["a"], "since": "2026-01-02T00:00:00Z"}, "since"),
        ({"failed": True, "event_ids": ["a"]}, "failed"),
        ({"failed": False}, "since"),
        ({"until": "2026-01-02T00:00:00Z"}, "since"),
        ({"event_ids": ["a"], "device": "MAC"}, "since"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-02T00:00:00Z"}, "until"),
        ({"since": "2027-01-02T00:00:00Z"}, "since"),
        ({"since": "2027-01-02T00:00:00Z", "until": "2027-01-03T00:00:00Z"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"device": "MAC"}, "since"),
        ({"event_ids": ["a"] * 1001}, "event_ids"),
        ({"event_ids": ["\ud800"]}, "event_ids[0]"),
        ({"since": "2026-01-02T00:00:00Z", "device": "\ud800"}, "device"),
        ({"since": "2026-01-02T00:00:00Z", "device": "D" * 257}, "device"),
        ({"every": True}, "every"),
    ],
)
async def test_a_replay_that_says_nothing_clear_is_refused_by_the_name_of_its_key(
    asked: object, field: str
) -> None:
    world = World()

    status, answer = await world.ask("POST", "/1/replay", asked)

    assert status == 400, answer
    assert [fault["path"] for fault in answer["faults"]] == [field]
    assert answer["error"].startswith(f"{field}: expected ")
    assert world.replays.stored == {}


async def test_a_replay_of_a_time_before_any_event_has_them_all() -> None:
    world = World()

    await world.replay(since="0001-01-01T00:00:00Z")

    [replay] = world.replays.stored.values()
    assert replay.choice.since == 0


async def test_the_configured_subscription_gets_no_replays() -> None:
    status, _ = await World().ask("POST", "/config/replay", {"event_ids": ["a"]})

    assert status == 409


async def test_replays_are_listed_and_an_unknown_one_is_not_found() -> None:
    world = World()
    made = [await world.replay(event_ids=["a"]) for _ in range(2)]

    _, listed = await world.ask("GET", "/1/replays")

    assert [each["id"] for each in listed["replays"]] == made
    assert (await world.ask("GET", "/1/replays/none"))[0] == 404
    assert (await world.ask("GET", "/2/replays"))[0] == 404


async def start_at(world: World, start: str) -> str:
    made = await world.create(start=start)
    assert made["state"] == "preparing"
    return made["id"]  # type: ignore[no-any-return]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_subscription_may_begin_with_history_and_is_active_once_it_is_stored() -> None:
    world = World()
    await world.event(2 * HOUR)
    made = [await world.event(HOUR), await world.event(HOUR / 2)]
    id = await start_at(world, ago(world, HOUR))
    between = await world.event(timedelta(seconds=-1))

    await world.worker.look()
    assert world.subscriptions.stored[id].state is SubscriptionState.PREPARING
    await world.finish()

    assert world.events() == [*made, between]
    assert {each.queue for each in world.stored()} == {DeliveryQueueKey(id, "MAC")}
    assert world.stored()[0].number == nanoseconds(world.start - HOUR)
    assert world.subscriptions.stored[id].state is SubscriptionState.ACTIVE
    _, shown = await world.ask("GET", f"/{id}")
    assert moment(shown["starts_at"]) == world.start - HOUR


async def test_a_subscription_may_begin_with_an_event() -> None:
    world = World()
    await world.event(HOUR)
    made = [await world.event(HOUR / 2), await world.event(HOUR / 4)]

    await start_at(world, made[0])
    await world.finish()

    assert world.events() == made


async def test_the_preparation_of_a_subscription_goes_on_after_a_crash_at_its_begin() -> None:
    world = World()
    event = await world.event(HOUR)
    id = await start_at(world, event)
    await world.worker.look()
    world.replays.stored.clear()

    await world.finish()

    assert world.events() == [event]
    assert world.subscriptions.stored[id].state is SubscriptionState.ACTIVE


async def test_one_whose_key_is_missing_is_active_once_its_history_is_stored() -> None:
    """Its events wait on, until its key is back; the replays of others go on."""
    world = World(STORED)
    id = await start_at(world, ago(world, HOUR))
    lost = replace(world.subscriptions.stored[id], url="", unreadable="no key")
    world.subscriptions.stored[id] = lost
    event = await world.event()
    replay = await world.replay(since=ago(world, HOUR))
    await world.finish()

    assert world.subscriptions.stored[id].state is SubscriptionState.ACTIVE
    assert world.subscriptions.stored[id].is_held
    assert await world.state(replay) == ("done", 1, 1.0)
    assert {each.id for each in world.stored()} == {f"1:{event}", f"{id}:{event}"}


@pytest.mark.parametrize("way", ["event_ids", "since", "device"])
async def test_a_replay_tries_the_dead_letters_among_its_events_again(way: str) -> None:
    world = World()
    event = await world.event()
    await world.deliveries.store([Delivery(DeliveryQueueKey("1", "MAC"), event, 1)])
    await world.deliveries.skip(f"1:{event}", None)
    since = {"since": ago(world, HOUR)}
    asked = {
        "event_ids": {"event_ids": [event]},
        "since": since,
        "device": since | {"device": "MAC"},
    }

    replay = await world.replay(**asked[way])
    await world.finish()

    assert [each.state for each in world.stored()] == [DeliveryState.PENDING]
    assert await world.state(replay) == ("done", 1, 1.0)
