"""Commands expire, and their subscribers get an event, although processes die in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from services.commands.queue.requeue import QueueRules
from services.commands.upkeep.expiry import CHUNK, FORGOTTEN_AFTER, PACE, Expiry, ended_event
from shared.concurrency.periodic import Loops
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import PARTITIONS, EnrollmentKey, EnrollmentStatus, partition_of
from shared.domain.errors import BrokerUnavailable, StoreUnavailable
from shared.domain.event import Event, Topic
from shared.messaging.envelope import event_json
from shared.ports.enrollments import Mark
from shared.ports.events import Appended
from shared.times import nanoseconds
from tests.support.commands_world import ANNA, FIRST_UUID, MAC, MINUTE, Barrier, World, enrolled
from tests.support.fakes.clock import START, settle
from tests.support.fakes.journal import Confirm, FakeJournal, FakePublisher
from tests.unit.commands.history.test_command_life import set_expiry

STEPS = ("overdue", "expire", "load", "append", "read", "publish", "published")
"""What a pass asks of store and broker for one place, in this order."""


class Killed(BaseException):
    """The process dies here."""


class Perilous(Barrier):
    """Dies at one step, once; notes the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.dies_before: str | None = None
        self.dies_after: str | None = None
        self.steps: list[str] = []

    async def __call__(self, operation: str) -> None:
        await super().__call__(operation)
        if operation == self.dies_before or self.dies_after in self.steps:
            self.dies_before = self.dies_after = None
            raise Killed
        self.steps.append(operation)


class Replicas:
    """Replicas of the work around one store, one journal and one broker."""

    def __init__(self) -> None:
        self.at = Perilous()
        self.world = World(at_store=self.at)
        self.journal, self.publisher = self.world.journal, self.world.publisher
        self.publisher.before = self.at

    def one(self, *partitions: int) -> Expiry:
        self.world.journal, self.world.publisher = self.journal, self.publisher
        return self.world.expirer(*partitions)

    async def look_over_a_kill(self, step: str, is_done: bool) -> None:
        """A replica dies in its pass, before this step or after it, and another one makes a pass."""
        if is_done:
            self.at.dies_after = step
        else:
            self.at.dies_before = step
        if (step, is_done) != ("published", True):  # nothing comes after
            with pytest.raises(Killed):
                await self.one().look()
        self.at.dies_after = self.at.dies_before = None
        await self.one().look()

    async def overdue(self) -> None:
        """Queue a command whose time is over when this is done."""
        await self.world.post()
        set_expiry(self.world, timedelta(seconds=30))
        self.world.clock.advance(MINUTE)
        self.at.steps.clear()

    @property
    def published(self) -> list[Event]:
        return self.publisher.published


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    yield Replicas()


async def test_ended_commands_are_told_of_behind_a_command_that_a_client_waits_for(
    replicas: Replicas,
) -> None:
    await replicas.overdue()

    with replicas.world.priority.interactive():
        looking = asyncio.create_task(replicas.one().look())
        await settle()
        assert replicas.at.steps == ["overdue"]
    await looking

    assert len(replicas.published) == 1


async def test_an_overdue_command_expires_and_its_event_is_published_and_safe(
    replicas: Replicas,
) -> None:
    await replicas.overdue()

    await replicas.one().look()

    entry = replicas.world.entry()
    assert (entry.state, entry.finished_at) == (EntryState.EXPIRED, START + MINUTE)
    [event] = replicas.published
    assert replicas.journal.events == {event.id: event}
    assert json.loads(event_json(event)) == {
        "topic": "macromdm.CommandExpired",
        "event_id": event.id,
        "created_at": json.loads(event_json(event))["created_at"],
        "command_event": {
            "udid": "MAC",
            "command_uuid": FIRST_UUID,
            "request_type": "DeviceInformation",
            "state": "expired",
            "expires_at": "2026-01-02T03:04:35Z",
        },
    }
    assert replicas.world.queue.unsafe == set()
    assert await replicas.world.connect() is None


async def test_a_pass_takes_the_steps_that_the_other_tests_die_at(replicas: Replicas) -> None:
    await replicas.overdue()

    await replicas.one().look()

    assert tuple(step for step in replicas.at.steps if step in STEPS) == STEPS


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_a_kill_at_any_step_is_repaired_and_the_event_is_the_same(
    replicas: Replicas, step: str, is_done: bool
) -> None:
    await replicas.overdue()
    if is_done:
        replicas.at.dies_after = step
    else:
        replicas.at.dies_before = step
    if (step, is_done) != ("published", True):  # nothing comes after
        with pytest.raises(Killed):
            await replicas.one().look()
    expired_at = replicas.world.entry().finished_at

    replicas.world.clock.advance(FORGOTTEN_AFTER + PACE.every)
    replicas.at.dies_after = replicas.at.dies_before = None
    await replicas.one().look()

    entry = replicas.world.entry()
    assert entry.state is EntryState.EXPIRED
    assert expired_at in (None, entry.finished_at)
    assert len({event_json(event) for event in replicas.published}) == 1
    assert replicas.world.queue.unsafe == set()
    published = len(replicas.published)
    replicas.world.clock.advance(10 * FORGOTTEN_AFTER)
    await replicas.one().look()
    assert len(replicas.published) == published


async def test_two_replicas_at_once_publish_one_event(replicas: Replicas) -> None:
    await replicas.overdue()

    await asyncio.gather(replicas.one().look(), replicas.one().look())

    assert len({event_json(event) for event in replicas.published}) == 1
    assert len(replicas.journal.events) == 1


async def test_the_event_stays_what_it_was_when_the_device_is_known_by_then(
    replicas: Replicas,
) -> None:
    """It was queued for an unknown device; the event is journaled; the device enrolls as a user
    enrollment before the event is published."""
    await replicas.overdue()
    record = replicas.world.enrollments.records.pop("MAC")
    replicas.at.dies_before = "publish"
    with pytest.raises(Killed):
        await replicas.one().look()
    key = EnrollmentKey("MAC", device="MAC", enrollment_id="MAC")
    replicas.world.enrollments.records["MAC"] = replace(record, key=key)
    replicas.world.clock.advance(FORGOTTEN_AFTER + PACE.every)

    await replicas.one().look()

    [event] = replicas.published
    assert event == replicas.journal.events[event.id]
    assert json.loads(event_json(event))["command_event"]["udid"] == "MAC"


async def test_the_event_of_a_user_channel_names_its_user(replicas: Replicas) -> None:
    await replicas.world.post("anna")
    entry = replace(replicas.world.entry(ANNA), expires_at=START)
    replicas.world.queue.entries[entry.id] = entry

    await replicas.one().look()

    [event] = replicas.published
    assert event.key == ANNA
    shown = json.loads(event_json(event))["command_event"]
    assert (shown["udid"], shown["user_id"]) == ("MAC", "anna")


async def test_the_event_of_a_user_enrollment_names_its_enrollment_id(replicas: Replicas) -> None:
    key = EnrollmentKey("E-1", device="E-1", enrollment_id="E-1")
    entry = QueueEntry("E-1", "E-1", "c", "h", "ProfileList", None, "o", finished_at=START)
    event = ended_event(replace(entry, state=EntryState.EXPIRED), key)

    shown = json.loads(event_json(event))["command_event"]

    assert (shown["enrollment_id"], "udid" in shown, shown["expires_at"]) == ("E-1", False, None)


async def test_a_removed_device_does_not_hold_its_commands_up(replicas: Replicas) -> None:
    await replicas.overdue()
    record = replicas.world.enrollments.records["MAC"]
    replicas.world.enrollments.records["MAC"] = replace(record, status=EnrollmentStatus.REMOVED)

    await replicas.one().look()

    assert [event.key for event in replicas.published] == [MAC]


async def test_what_a_reader_ended_is_told_by_a_later_pass(replicas: Replicas) -> None:
    await replicas.overdue()
    await replicas.world.shown()
    assert replicas.world.entry().state is EntryState.EXPIRED
    await replicas.one().look()
    early = list(replicas.published)

    replicas.world.clock.advance(FORGOTTEN_AFTER + PACE.every)
    await replicas.one().look()

    assert (early, len(replicas.published)) == ([], 1)


async def test_what_ended_otherwise_just_before_is_not_told(replicas: Replicas) -> None:
    """The pass has read the entry; the device answers; then the pass would end it."""
    await replicas.world.post()
    entry = await replicas.world.connect()
    assert entry is not None
    set_expiry(replicas.world, timedelta())
    gate = replicas.at.stop("expire")
    looking = asyncio.ensure_future(replicas.one().look())
    await replicas.at.reached("expire")
    await replicas.world.answer(entry)
    gate.set()
    await looking

    assert replicas.world.entry().state is EntryState.ACKNOWLEDGED
    assert replicas.published == []


async def test_each_replica_sees_to_its_own_partitions(replicas: Replicas) -> None:
    await replicas.overdue()
    mine = partition_of("MAC")
    others = set(range(PARTITIONS)) - {mine}

    await replicas.one(*others).look()
    untouched = replicas.world.entry().state
    await replicas.one(mine).look()

    assert untouched is EntryState.QUEUED
    assert len(replicas.published) == 1


@pytest.mark.parametrize("outcome", [Confirm.LOST, Confirm.TAKEN_UNCONFIRMED])
async def test_without_a_broker_commands_expire_all_the_same_and_are_left_to_the_relay(
    replicas: Replicas, outcome: Confirm
) -> None:
    await replicas.overdue()
    replicas.publisher.outcome = lambda _: outcome

    await replicas.one().look()

    assert replicas.world.entry().state is EntryState.EXPIRED
    assert replicas.world.queue.unsafe == set()
    assert await backlog(replicas.world) == list(replicas.journal.events.values())


async def test_without_a_broker_a_command_of_an_unknown_device_is_told_later(
    replicas: Replicas,
) -> None:
    await replicas.overdue()
    replicas.world.enrollments.records.clear()
    replicas.publisher.outcome = lambda _: Confirm.LOST

    with pytest.raises(BrokerUnavailable):
        await replicas.one().look()

    assert replicas.world.queue.unsafe == {replicas.world.entry().id}
    replicas.publisher.outcome = lambda _: Confirm.CONFIRMED
    replicas.world.clock.advance(FORGOTTEN_AFTER + PACE.every)
    await replicas.one().look()
    assert replicas.world.queue.unsafe == set()


@pytest.mark.parametrize("is_ahead", [False, True])
async def test_rule_08_the_events_of_ended_commands_stay_behind_the_backlog_of_their_device(
    replicas: Replicas, is_ahead: bool
) -> None:
    """Two commands of the device and one of a user on it; the backlog is of a clock that is ahead, or not."""
    world = replicas.world
    for target, uuid in (("MAC", "one"), ("MAC", "two"), ("anna", "three")):
        await world.post(target, uuid=uuid)
    for entry in list(world.queue.entries.values()):
        world.queue.entries[entry.id] = replace(entry, expires_at=START)
    waits = nanoseconds(world.clock.now()) + (10**12 if is_ahead else -(10**12))
    await world.enrollments.mark_waiting([Mark("MAC", waits)])

    await replicas.one().look()

    assert replicas.published == []
    assert world.queue.unsafe == set()
    told = await backlog(world)
    assert [event.topic for event in told] == [Topic.COMMAND_EXPIRED] * 3
    assert len({event.created_at for event in told}) == 3
    assert min(event.created_at for event in told) > waits


async def test_a_journal_that_takes_nothing_means_no_event(replicas: Replicas) -> None:
    class Away(FakeJournal):
        async def append(self, events: object) -> list[Appended]:
            return [Appended.UNKNOWN]

    await replicas.overdue()
    replicas.journal = Away()

    with pytest.raises(StoreUnavailable):
        await replicas.one().look()

    assert replicas.published == []
    assert len(replicas.world.queue.unsafe) == 1


async def test_many_expire_in_one_pass_with_an_id_and_a_time_of_their_own(
    replicas: Replicas,
) -> None:
    world = replicas.world
    for n in range(3 * CHUNK):
        await world.post(uuid=f"{n}")
        entry = replace(world.entry(uuid=f"{n}"), expires_at=START)
        world.queue.entries[entry.id] = entry

    await replicas.one().look()

    assert len({event.id for event in replicas.published}) == 3 * CHUNK
    assert len({event.created_at for event in replicas.published}) == 3 * CHUNK
    assert {entry.state for entry in world.queue.entries.values()} == {EntryState.EXPIRED}
    assert world.queue.unsafe == set()


async def test_what_expires_in_a_partition_that_is_away_is_left_to_the_relay_and_holds_up_no_other(
    replicas: Replicas,
) -> None:
    world = replicas.world
    other = next(f"M{n}" for n in range(99) if partition_of(f"M{n}") != partition_of("MAC"))
    world.enrollments.add(enrolled(EnrollmentKey(other, other, udid=other)))
    for target in ("MAC", other):
        for n in range(CHUNK + 1):
            await world.post(target, uuid=f"{target}-{n}")
    for entry in list(world.queue.entries.values()):
        world.queue.entries[entry.id] = replace(entry, expires_at=START)
    replicas.publisher.away = frozenset({partition_of("MAC")})

    await replicas.one().look()

    assert {entry.state for entry in world.queue.entries.values()} == {EntryState.EXPIRED}
    assert [event.key.device for event in replicas.published] == [other] * (CHUNK + 1)
    assert world.queue.unsafe == set()
    assert len(await backlog(world)) == CHUNK + 1


async def test_the_id_is_a_uuid_of_version_7_with_the_time_of_the_end() -> None:
    entry = QueueEntry("MAC", "MAC", "c", "h", "ProfileList", None, "o1", finished_at=START)
    event = ended_event(entry, MAC)

    assert UUID(event.id).version == 7
    assert UUID(event.id).variant == "specified in RFC 4122"
    assert (UUID(event.id).int >> 80) == START.timestamp() * 1000
    assert event.created_at // 10**6 == START.timestamp() * 1000
    assert event.topic is Topic.COMMAND_EXPIRED
    anew = ended_event(replace(entry, order="o2"), MAC)
    later = ended_event(replace(entry, finished_at=START + MINUTE), MAC)
    assert len({event.id, anew.id, later.id}) == 3
    assert event.id < later.id


async def test_it_runs_on_through_outages_and_takes_longer_pauses(replicas: Replicas) -> None:
    class Away(FakePublisher):
        is_away = True

        async def publish(self, events, *, settled=None):  # type: ignore[no-untyped-def]
            if self.is_away:
                raise BrokerUnavailable("away")
            return await super().publish(events, settled=settled)

    replicas.publisher = away = Away()
    await replicas.overdue()
    running = asyncio.ensure_future(replicas.one().run(Loops(replicas.world.clock)))
    await replicas.world.clock.run(FORGOTTEN_AFTER)
    looks = replicas.at.steps.count("overdue")
    away.is_away = False
    await replicas.world.clock.run(FORGOTTEN_AFTER)
    running.cancel()
    await settle()

    assert running.cancelled()
    assert looks <= FORGOTTEN_AFTER / PACE.every
    assert PACE.after_failure > PACE.every
    assert len(away.published) == 1


# --- the name of an expired command is used again


@pytest.mark.parametrize("looked", [False, True], ids=["not noticed", "shown to a reader"])
async def test_an_expiry_is_told_though_its_command_is_queued_anew(
    replicas: Replicas, looked: bool
) -> None:
    world = replicas.world
    await replicas.overdue()
    if looked:
        assert await world.shown() == []

    is_new = await world.post()
    relayed = await backlog(world)
    await replicas.one().look()

    assert is_new
    assert world.entry().state is EntryState.QUEUED
    [event] = relayed
    assert event.topic is Topic.COMMAND_EXPIRED
    assert replicas.published == []


async def test_an_expiry_that_was_told_is_not_told_again(replicas: Replicas) -> None:
    world = replicas.world
    await replicas.overdue()
    await replicas.one().look()

    assert await world.post()

    assert len(replicas.published) == 1
    assert await backlog(world) == []


async def test_of_a_device_without_a_record_the_expiry_is_published_at_once(
    replicas: Replicas,
) -> None:
    world = World(QueueRules(accept_unknown_devices=True))
    await world.post("NOBODY")
    [entry] = world.queue.entries.values()
    world.queue.entries[entry.id] = replace(entry, expires_at=START + MINUTE)
    world.clock.advance(MINUTE)

    assert await world.post("NOBODY")

    assert [event.topic for event in world.publisher.published] == [Topic.COMMAND_EXPIRED]


async def backlog(world: World) -> list[Event]:
    """What the relay finds."""
    mark = (await world.enrollments.waiting(range(PARTITIONS))).get("MAC")
    if mark is None or mark.since is None or mark.upto is None:
        return []
    found = await world.journal.of_device("MAC", mark.since, mark.upto, 100)
    return list((await world.journal.read([each.id for each in found])).values())
