"""Batches: which events share a request, in which order, and what one failure means for them."""

import asyncio
import plistlib
from dataclasses import replace
from datetime import timedelta
from itertools import cycle

import orjson
import pytest

from services.webhook.delivery.inbox import Arrival
from services.webhook.delivery.queue_state import DeliveryQueue
from services.webhook.delivery.schedule import RetryPolicy
from services.webhook.endpoints.slots import LARGEST_BATCH
from services.webhook.forms.form import shaped
from shared.domain.enrollment import EnrollmentKey, partition_of
from shared.domain.errors import StoreUnavailable
from shared.domain.event import Event, Topic
from shared.domain.subscription import BodyForm, Delivery, DeliveryQueueKey, Subscription
from shared.messaging.envelope import event_json
from tests.support.delivery_rig import DEVICE, PARTITION, Replica, World
from tests.support.fakes.clock import settle
from tests.support.fakes.deliveries import Owed
from tests.support.fakes.event_queue import FakeChannel, FakeQueue, GivenEvent, QueuedEvent, body_of

BATCHES = Subscription("made", "http://made.invalid/", form=BodyForm(batch=3))
QUEUE = DeliveryQueueKey("made", DEVICE)
SHORT = [timedelta(seconds=1)] * 6
MINE = [name for name in map(str, range(3000)) if partition_of(name) == PARTITION][:3]
"""Other devices of the same partition."""


@pytest.fixture
def world() -> World:
    return World(prefetch=200)


def requests(world: World) -> list[list[str]]:
    return [names for _, names in world.receiver.requests]


def owe(world: World, *names: str, queue: DeliveryQueueKey = QUEUE) -> None:
    """Events that are stored, as if by an earlier process."""
    world.publish(*names, device=queue.device)
    world.queue.ready.clear()
    for number, name in enumerate(names, start=1):
        world.records[f"made:{name}"] = Owed(Delivery(queue, name, number, size=20))


async def test_what_came_behind_an_attempt_under_way_goes_with_the_next_request(
    world: World,
) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        await replica.subscribe(BATCHES)
        world.publish("e1", "e2", "e3", "e4", "e5")
        await settle()
        world.receiver.held["e1"].set()
        await settle()

    assert requests(world) == [["e1", "e2", "e3"], ["e4", "e5"]] or requests(world) == [
        ["e1"],
        ["e2", "e3", "e4"],
        ["e5"],
    ]
    assert world.is_settled


async def test_one_failure_stores_all_events_of_the_request_and_they_go_together_again(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["500"]
    async with Replica(world, waits=SHORT) as replica:
        await replica.subscribe(BATCHES)
        world.publish("e1", "e2", "e3", "e4")
        await settle()
        stored = {name: owed.delivery.attempts for name, owed in world.records.items()}
        await world.run(2)

    assert stored["made:e1"] == 1
    assert world.receiver.firsts == ["e1", "e2", "e3", "e4"]
    assert ["e1", "e2", "e3"] in requests(world)
    assert world.is_settled


async def test_a_request_that_failed_comes_again_as_a_whole_however_waits_are_spread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    owe(world, "e1", "e2", "e3")
    world.receiver.script["e1"] = ["500"]
    replica = Replica(world, waits=SHORT)
    spread = cycle([0.1, 0.9, 0.5])
    monkeypatch.setattr(
        replica.retries._queue_retry, "policy", RetryPolicy(SHORT, lambda: next(spread))
    )
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(5)

    assert requests(world) == [["e1", "e2", "e3"]] * 2
    assert world.is_settled


async def test_an_event_that_failed_twice_goes_alone_and_its_neighbours_are_not_dead_lettered(
    world: World,
) -> None:
    owe(world, "e1", "e2", "e3", "e4")
    world.receiver.script["e2"] = ["500"] * 99
    replica = Replica(world, waits=SHORT)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run_beside(30)
        await world.jump(60)

    sent = [names for names in requests(world) if not names[0].startswith("good")]
    assert sent[:4] == [["e1", "e2", "e3"], ["e1", "e2", "e3"], ["e1"], ["e2"]]
    assert all("e2" not in names or names == ["e2"] for names in sent[2:])
    arrived = [name for name in world.receiver.firsts if name[0] == "e"]
    assert arrived == ["e1", "e3", "e4"]


async def test_of_a_schedule_of_one_wait_no_neighbour_is_dead_lettered(world: World) -> None:
    owe(world, "e1", "e2", "e3")
    world.receiver.script["e2"] = ["500"] * 99
    replica = Replica(world, waits=SHORT[:1])
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run_beside(30)

    assert [each.event_id for each in world.store.all_dead_lettered] == ["e2"]
    assert [name for name in world.receiver.firsts if name[0] == "e"] == ["e1", "e3"]


async def test_delivery_queues_that_wait_for_a_slot_share_a_request(world: World) -> None:
    one_slot = replace(BATCHES, limits=replace(BATCHES.limits, concurrency=1))
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        await replica.subscribe(one_slot)
        for number in range(1, 6):
            world.publish(f"e{number}", device=f"device {number}")
        await settle()
        world.receiver.held["e1"].set()
        await settle()

    assert requests(world) == [["e1"], ["e2", "e3", "e4"], ["e5"]]
    assert world.is_settled


async def test_what_waits_goes_in_batches_and_in_order(world: World) -> None:
    owe(world, *(f"e{number:03d}" for number in range(250)))
    replica = Replica(world)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(10)

    assert world.receiver.arrivals == [f"e{number:03d}" for number in range(250)]
    assert max(map(len, requests(world))) == 3
    assert len(requests(world)) <= 250 / 3 + 4
    assert world.is_settled


async def test_what_the_journal_forgot_is_dead_lettered_and_its_neighbours_are_not(
    world: World,
) -> None:
    owe(world, "e1", "e2", "e3")
    del world.journal.events["e2"]
    replica = Replica(world)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(60)

    assert [each.event_id for each in world.store.all_dead_lettered] == ["e2"]
    assert world.receiver.arrivals == ["e1", "e3"]


async def test_a_lease_of_another_on_one_event_keeps_those_behind_it_waiting(world: World) -> None:
    owe(world, "e1", "e2", "e3")
    until = world.clock.now() + timedelta(seconds=20)
    world.records["made:e2"].lease_by, world.records["made:e2"].lease_until = "another", until
    replica = Replica(world)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(10)
        before = list(world.receiver.arrivals)
        await world.run(60)

    assert before == ["e1"]
    assert world.receiver.arrivals == ["e1", "e2", "e3"]


@pytest.mark.parametrize(("taken", "left"), [("e1", ["e2", "e3"]), ("e2", ["e3"])])
async def test_of_a_request_that_cannot_be_leased_whole_no_lease_is_kept_for_nothing(
    world: World, taken: str, left: list[str]
) -> None:
    owe(world, "e1", "e2", "e3")
    until = world.clock.now() + timedelta(seconds=20)
    world.records[f"made:{taken}"].lease_by = "another"
    world.records[f"made:{taken}"].lease_until = until
    replica = Replica(world)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(2)

    assert not [each for each in left if world.records[f"made:{each}"].lease_by]
    assert world.records[f"made:{taken}"].lease_by == "another"


async def test_where_a_lease_fails_those_beside_it_are_given_back(world: World) -> None:
    """A call leases 32 deliveries."""
    owe(world, *(f"e{number:02}" for number in range(40)))
    replica = Replica(world)
    replica.subscriptions.subscriptions = [replace(BATCHES, form=BodyForm(batch=100))]
    calls = 0

    async def fails_once(operation: str) -> None:
        nonlocal calls
        calls += operation == "lease"
        if operation == "lease" and calls == 1:
            raise StoreUnavailable("away")

    replica.deliveries.before = fails_once
    async with replica:
        await world.run(2)

        assert calls == 2
        assert not [each for each in world.records.values() if each.lease_by]
        await world.run(5)
    assert world.is_settled


async def test_events_of_a_replay_say_so_and_hold_up_nothing(world: World) -> None:
    replayed = DeliveryQueueKey("made", DEVICE, aside="replay.r1")
    owe(world, "old1", "old2", queue=replayed)
    world.receiver.script["old1"] = ["503"] * 3
    replica = Replica(world, waits=SHORT)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(0.5)
        world.publish("live")
        await world.run(20)

    assert world.receiver.firsts == ["live", "old1", "old2"]
    assert dict(world.receiver.replays) == {"old1": "r1", "old2": "r1", "live": None}
    assert world.is_settled


async def test_a_good_event_that_shares_a_bad_ones_requests_is_not_dead_lettered(
    world: World,
) -> None:
    one_slot = replace(BATCHES, limits=replace(BATCHES.limits, concurrency=1))
    owe(world, "x1", queue=DeliveryQueueKey("made", MINE[0]))
    owe(world, "y1", queue=DeliveryQueueKey("made", MINE[1]))
    world.receiver.script["y1"] = ["500"] * 99
    replica = Replica(world, waits=SHORT[:1])
    replica.subscriptions.subscriptions = [one_slot]
    async with replica:
        await world.run_beside(40)

    assert [each.event_id for each in world.store.all_dead_lettered] == ["y1"]
    assert "x1" in world.receiver.arrivals


async def test_events_that_failed_together_become_dead_letters_one_by_one(world: World) -> None:
    """Each after an attempt of its own, with its body; what waits behind them goes on."""
    world.receiver.script = {name: ["500"] * 99 for name in ("e1", "e2", "e3")}
    async with Replica(world, waits=SHORT[:2]) as replica:
        await replica.subscribe(BATCHES)
        world.publish("e1", "e2", "e3", "e4", device=MINE[0])
        await world.run_beside(20)

    sent = [names for names in requests(world) if names[0][0] == "e"]
    assert sent == [["e1", "e2", "e3"]] * 2 + [["e1"], ["e2"], ["e3"], ["e4"]]
    dead = {each.event_id: each.attempts for each in world.store.all_dead_lettered}
    assert dead == {"e1": 3, "e2": 3, "e3": 3}
    assert all(world.records[f"made:{name}"].body == body_of(name) for name in dead)
    assert replica.metric("deliveries_given_up") == 3


@pytest.mark.parametrize(
    ("mebibytes", "together"), [(2, [["e1", "e2"], ["e3"]]), (3, [["e1"], ["e2"], ["e3"]])]
)
async def test_a_retry_holds_four_mebibytes(mebibytes: int, together: list[list[str]]) -> None:
    world = World(budget=2**30)
    owe(world, "e1", "e2", "e3")
    for owed in world.records.values():
        owed.delivery = replace(owed.delivery, size=mebibytes * 2**20)
    replica = Replica(world)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(3)

    assert requests(world) == together


@pytest.mark.parametrize(("mebibytes", "count"), [(1, 3), (2, 2), (3, 1), (9, 1)])
def test_a_first_attempt_holds_four_mebibytes(mebibytes: int, count: int) -> None:
    channel = FakeChannel(FakeQueue(), lambda _: None, lambda: None)
    queue = DeliveryQueue(QUEUE)
    for name in ("e1", "e2", "e3", "e4"):
        given = GivenEvent(QueuedEvent(name, DEVICE), channel)
        given.body, given.size = bytes(mebibytes * 2**20), mebibytes * 2**20
        queue.arrivals.append(Arrival(given, is_held=True))

    assert len(queue.run(BATCHES)) == count


FORMED = replace(BATCHES, form=BodyForm(frozenset({"payload"}), batch=100))


def of_a_long_text(event_id: str) -> bytes:
    """An event of 3 KB whose property list names one text 125 times; its id comes first."""
    message = {"UDID": "U", "Status": "Acknowledged", "L": ["x" * 2000] * 125}
    raw = plistlib.dumps(message, fmt=plistlib.FMT_BINARY)
    event = Event(event_id, Topic.CONNECT, EnrollmentKey("U", "U"), 1, raw, "w", 1)
    return orjson.dumps({"event_id": event_id, **orjson.loads(event_json(event))})


def test_a_first_attempt_is_measured_in_its_form() -> None:
    channel = FakeChannel(FakeQueue(), lambda _: None, lambda: None)
    queue, body = DeliveryQueue(QUEUE), of_a_long_text("e")
    for number in range(100):
        given = GivenEvent(QueuedEvent(str(number), DEVICE), channel)
        given.body, given.size = body, len(body)
        queue.arrivals.append(Arrival(given, is_held=True))

    run = [each.received.body or b"" for each in queue.run(FORMED)]
    assert len(run) > 10
    assert LARGEST_BATCH / 2 < len(shaped(FORMED.form, run)) <= LARGEST_BATCH


@pytest.mark.parametrize("is_stored", [True, False])
async def test_events_that_wait_together_are_measured_in_their_form(
    is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(prefetch=200, budget=2**30)
    monkeypatch.setattr("tests.support.fakes.event_queue.body_of", of_a_long_text)
    names = [f"e{number}" for number in range(60)]
    replica = Replica(world)
    monkeypatch.setattr(replica.bodies, "_render", lambda event: of_a_long_text(event.id))
    one_slot = replace(FORMED, limits=replace(FORMED.limits, concurrency=1))
    replica.subscriptions.subscriptions = [one_slot]
    if is_stored:
        owe(world, *names)
        for owed in world.records.values():
            owed.delivery = replace(owed.delivery, size=len(of_a_long_text("e00")))
    async with replica:
        for name in () if is_stored else names:
            world.publish(name, device=f"device of {name}")
        await world.run(3)

    assert sorted(world.receiver.firsts) == sorted(names)
    most = max(len(names) for names in requests(world))
    assert most > 1
    assert len(shaped(FORMED.form, [of_a_long_text("e00")] * most)) <= LARGEST_BATCH


async def test_rule_11_what_is_to_be_set_aside_shares_no_request_with_an_older_one(
    world: World,
) -> None:
    """A replica that was cut off stores the older one late."""
    x = MINE[0]
    world.receiver.script |= {"x0": ["500"] * 99, "x1": ["500"]}
    async with Replica(world, waits=[*SHORT[:5], *[timedelta(hours=1)] * 3]) as replica:
        await replica.subscribe(BATCHES)
        world.publish("x0", device=x)
        await world.run_beside(8)
        replica.barriers.hold("store")
        world.publish("x1", device=x)
        await world.run(2)  # it is due by now
        world.journal.events["old"] = replace(world.journal.events["x0"], id="old")
        world.records["made:old"] = Owed(Delivery(DeliveryQueueKey("made", x), "old", 0, size=20))
        replica.barriers.let("store")
        await world.run(2)

        assert replica.metric("deliveries_set_aside") == 2
    sent = [names for names in requests(world) if names[0] in ("old", "x1")]
    assert sent == [["x1"], ["old"], ["x1"]]
    assert "made:x1" not in world.records


async def test_rule_11_a_good_event_that_shares_a_bad_ones_request_is_not_set_aside(
    world: World,
) -> None:
    """Its device has one aside already, so a failure of its own would set it aside at once."""
    one_slot = replace(BATCHES, limits=replace(BATCHES.limits, concurrency=1))
    x, y, z = MINE
    world.receiver.script |= {"x0": ["500"] * 99, "y1": ["500"] * 99}
    world.receiver.held["hold"] = asyncio.Event()
    async with Replica(world, waits=[*SHORT[:5], *[timedelta(hours=1)] * 3]) as replica:
        await replica.subscribe(one_slot)
        world.publish("x0", device=x)
        await world.run_beside(8)
        assert replica.metric("deliveries_set_aside") == 1
        world.publish("hold", device=z)
        await settle()
        world.publish("x1", device=x)
        world.publish("y1", device=y)
        await settle()
        world.receiver.held["hold"].set()
        await settle()
        world.publish("x2", device=x)
        await world.run_beside(6)

    assert ["x1", "y1"] in requests(world)
    assert [name for name in world.receiver.firsts if name[0] == "x"] == ["x1", "x2"]


async def test_one_that_cannot_be_read_does_not_hold_up_those_before_it(world: World) -> None:
    owe(world, "e1", "e2", "e3")
    world.journal.unreadable = {"e2"}
    replica = Replica(world)
    replica.subscriptions.subscriptions = [BATCHES]
    async with replica:
        await world.run(30)

    assert world.receiver.arrivals == ["e1"]
