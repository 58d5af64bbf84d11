"""The sweep: who was never pushed, who stays silent, and what a restart and other replicas make of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.push.send.apns import Push
from services.push.send.attempt import PushAttempts
from services.push.send.outcomes import Outcome, TopicRefused
from services.push.send.pusher import Pusher, key_of
from services.push.send.topics import Topics
from services.push.sweep import INTERVAL, Sweep
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.partitions import assigned
from shared.concurrency.periodic import FAILING_AFTER, Loops
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import (
    PARTITIONS,
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    PushTarget,
    partition_of,
)
from shared.domain.errors import StoreUnavailable
from shared.ports.pushes import PushRecord
from shared.telemetry.metrics import Metrics
from tests.support.fakes.apns import FakeApnsSender
from tests.support.fakes.clock import FakeClock, FakeIds, settle
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.pushes import FakePushes
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.subscriptions import FakeSubscriptions

TOPIC = "com.apple.mgmt.External.test"
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ALL = frozenset(range(PARTITIONS))


class FixedShare:
    """A share that a test gives."""

    def __init__(self, partitions: frozenset[int] = ALL) -> None:
        self.partitions = partitions
        self.refreshed = 0
        self.has_left = False

    async def refresh(self) -> frozenset[int]:
        self.refreshed += 1
        return self.partitions

    async def leave(self) -> None:
        self.has_left = True


class World:
    """What outlives a process of push."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.apns = FakeApnsSender()
        self.enrollments = FakeEnrollments()
        self.pushes = FakePushes()
        self.queue = FakeCommandQueue()
        self.orders = 0

    def process(self, share: FixedShare | None = None) -> Sweep:
        """A process of push, just started."""
        topics = Topics([TOPIC], self.clock, lambda _: None)
        attempts = PushAttempts(
            self.apns,
            self.enrollments,
            topics,
            self.clock,
            lambda: 0.0,
            WantedTopics(FakeSubscriptions()),
            FakeIds(),
        )
        pusher = Pusher(attempts, self.enrollments, self.queue, self.pushes, self.clock, Metrics())
        return Sweep(self.queue, self.pushes, pusher, share or FixedShare(), self.clock)

    def enroll(self, device: str) -> None:
        self.enrollments.add(
            Enrollment(
                EnrollmentKey(device, device, udid=device),
                EnrollmentStatus.ENROLLED,
                push=PushTarget(TOPIC, device.encode(), "magic"),
                token_updated_at=self.clock.now(),
            )
        )

    def accept(self, device: str, at: datetime | None = None) -> QueueEntry:
        """A command is accepted, and its process dies before the push request."""
        self.orders += 1
        entry = QueueEntry(
            enrollment=device,
            device=device.partition(":")[0],
            command_uuid=f"c{self.orders}",
            command_hash="a" * 64,
            request_type="DeviceInformation",
            generation=None,
            order=f"{self.orders:06}",
            accepted_at=at or self.clock.now(),
        )
        self.queue.entries[entry.id] = entry
        return entry

    def finish(self, entry: QueueEntry) -> None:
        self.queue.entries[entry.id] = replace(entry, state=EntryState.ACKNOWLEDGED)

    def pushed(self) -> list[str]:
        return [token.decode() for token in self.apns.tokens()]


@pytest.fixture
def world() -> World:
    return World()


@asynccontextmanager
async def running(world: World, *sweeps: Sweep) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Processes that are killed at the end."""
    tasks = [asyncio.ensure_future(sweep.run(Loops(world.clock))) for sweep in sweeps]
    await settle()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled()


async def test_rule_12_an_entry_that_was_never_pushed_is_swept_within_ten_seconds(
    world: World,
) -> None:
    world.enroll("MAC")
    async with running(world, world.process()):
        await world.clock.run(MINUTE)
        for _ in range(7):
            accepted = world.clock.now()
            world.accept("MAC")
            before = len(world.apns.pushes)
            await world.clock.run(10 * SECOND)
            assert len(world.apns.pushes) > before, accepted
            await world.clock.run(timedelta(minutes=2, milliseconds=700))


async def test_an_entry_whose_enrollment_was_pushed_since_is_not_pushed_again(world: World) -> None:
    world.enroll("MAC")
    world.accept("MAC")
    now = world.clock.now()
    await world.pushes.record([PushRecord("MAC", now + SECOND, now + HOUR, pushed_at=now + SECOND)])
    async with running(world, world.process()):
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == []


async def test_a_push_before_the_entry_was_accepted_does_not_count(world: World) -> None:
    world.enroll("MAC")
    now = world.clock.now()
    await world.pushes.record([PushRecord("MAC", now - SECOND, now + HOUR, pushed_at=now)])
    world.accept("MAC")
    async with running(world, world.process()):
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == ["MAC"]


async def test_a_push_in_the_same_millisecond_may_have_been_earlier_and_does_not_count(
    world: World,
) -> None:
    world.enroll("MAC")
    now = world.clock.now()
    await world.pushes.record([PushRecord("MAC", now, now + HOUR, pushed_at=now)])
    world.accept("MAC")
    async with running(world, world.process()):
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == ["MAC"]


async def test_many_entries_of_one_device_are_one_push(world: World) -> None:
    world.enroll("MAC")
    for _ in range(20):
        world.accept("MAC")
    async with running(world, world.process()):
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == ["MAC"]


async def test_an_entry_that_became_visible_late_is_found_by_the_second_look(world: World) -> None:
    world.enroll("MAC")
    async with running(world, world.process()):
        await world.clock.run(MINUTE)
        world.accept("MAC", at=world.clock.now() - 12 * SECOND)
        await world.clock.run(MINUTE)

    assert world.pushed() == ["MAC"]


async def test_an_entry_of_a_commands_process_whose_clock_is_behind_ours_is_found(
    world: World,
) -> None:
    world.enroll("MAC")
    async with running(world, world.process()):
        await world.clock.run(MINUTE)
        world.accept("MAC", at=world.clock.now() - 4 * MINUTE)
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == ["MAC"]


async def test_what_was_accepted_while_our_clock_was_ahead_is_found_after_its_correction(
    world: World,
) -> None:
    world.enroll("MAC")
    async with running(world, world.process()):
        await world.clock.run(MINUTE)
        world.clock.set_back(-HOUR)
        await world.clock.run(10 * SECOND)
        world.clock.set_back(HOUR)
        world.accept("MAC")
        await world.clock.run(10 * SECOND)

    assert world.pushed() == ["MAC"]
    assert max(world.pushes.stored_positions.values()) <= world.clock.now()


async def test_a_push_of_a_clock_that_was_ahead_does_not_count_for_later_entries(
    world: World,
) -> None:
    world.enroll("MAC")
    now = world.clock.now()
    await world.pushes.record([PushRecord("MAC", now + HOUR, now + 2 * HOUR, pushed_at=now)])
    async with running(world, world.process()):
        world.accept("MAC")
        await world.clock.run(10 * SECOND)

    assert world.pushed() == ["MAC"]


async def test_a_stretch_that_is_too_much_for_the_store_is_looked_at_in_smaller_ones(
    world: World,
) -> None:
    class SmallQueue(FakeCommandQueue):
        widest = timedelta()

        async def accepted_between(
            self, since: datetime, until: datetime
        ) -> AsyncIterator[list[QueueEntry]]:
            if until - since > 10 * MINUTE:
                raise StoreUnavailable("took too long")
            self.widest = max(self.widest, until - since)
            async for page in super().accepted_between(since, until):
                yield page

    world.queue = queue = SmallQueue()
    world.enroll("MAC")
    await world.process().remember_start()
    await world.clock.run(2 * HOUR)
    world.accept("MAC")
    async with running(world, world.process()):
        await world.clock.run(40 * MINUTE)

    assert world.pushed() != []
    assert INTERVAL < queue.widest <= 10 * MINUTE


async def test_a_finished_entry_is_not_pushed(world: World) -> None:
    world.enroll("MAC")
    world.finish(world.accept("MAC"))
    async with running(world, world.process()):
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == []


async def test_a_restart_goes_on_where_the_last_process_stopped(world: World) -> None:
    world.enroll("MAC")
    async with running(world, world.process()):
        await world.clock.run(MINUTE)
    world.accept("MAC")
    await world.clock.run(3 * timedelta(days=1))
    async with running(world, world.process()):
        await world.clock.run(10 * SECOND)

    assert world.pushed() == ["MAC"]


async def test_a_process_killed_at_a_push_leaves_it_to_the_next_one(world: World) -> None:
    world.enroll("MAC")
    world.apns.gate.clear()
    async with running(world, world.process()):
        world.accept("MAC")
        await world.clock.run(30 * SECOND)
    killed_at = len(world.apns.pushes)
    world.apns.gate.set()
    await world.clock.run(timedelta(days=2))
    async with running(world, world.process()):
        await world.clock.run(10 * SECOND)

    assert killed_at == 1
    assert len(world.apns.pushes) == 2
    assert "MAC" in world.pushes.rows


async def test_a_slow_push_does_not_hold_up_the_next_look(world: World) -> None:
    world.enroll("MAC")
    world.enroll("PAD")
    world.apns.gate.clear()
    async with running(world, world.process()):
        world.accept("MAC")
        await world.clock.run(10 * SECOND)
        world.accept("PAD")
        await world.clock.run(10 * SECOND)

    assert set(world.pushed()) == {"MAC", "PAD"}


async def test_the_first_process_ever_sees_what_was_accepted_before_it(world: World) -> None:
    world.enroll("MAC")
    world.accept("MAC")
    await world.clock.run(20 * HOUR)
    async with running(world, world.process()):
        await world.clock.run(10 * SECOND)

    assert world.pushed() == ["MAC"]


async def test_on_a_store_that_answers_at_once_looking_back_does_not_hold_up_new_entries(
    world: World,
) -> None:
    async def at_once(_: str) -> None:
        return None

    world.queue.before = world.pushes.before = at_once
    world.enroll("MAC")
    async with running(world, world.process()):
        world.accept("MAC")
        await world.clock.run(10 * SECOND)

    assert world.pushed() == ["MAC"]


async def test_what_was_queued_without_a_certificate_is_pushed_once_there_is_one(
    world: World,
) -> None:
    world.enroll("MAC")
    await world.process().remember_start()
    await world.clock.run(timedelta(days=9))
    world.accept("MAC")
    await world.clock.run(timedelta(days=9))
    async with running(world, world.process()):
        await world.clock.run(2 * MINUTE)

    assert world.pushed() == ["MAC"]


async def test_the_age_of_the_oldest_unpushed_entry_is_shown(world: World) -> None:
    world.enroll("MAC")
    sweep = world.process()
    world.accept("MAC")
    await world.clock.run(HOUR)
    async with asyncio.TaskGroup() as group:
        await sweep.unpushed(group, Loops(world.clock))

    assert sweep.oldest_unpushed == HOUR.total_seconds()


async def test_a_silent_device_is_pushed_again_while_a_command_waits(world: World) -> None:
    world.enroll("MAC")
    async with running(world, world.process()):
        entry = world.accept("MAC")
        await world.clock.run(10 * SECOND)
        first = len(world.apns.pushes)
        await world.clock.run(5 * MINUTE + 10 * SECOND)
        second = len(world.apns.pushes)
        await world.clock.run(30 * MINUTE + 10 * SECOND)
        third = len(world.apns.pushes)
        world.finish(entry)
        world.clock.advance(3 * HOUR)
        await world.clock.run(10 * SECOND)

    assert [first, second, third] == [1, 2, 3]
    assert len(world.apns.pushes) == 3
    assert world.pushes.rows == {}


async def test_a_device_that_gets_its_token_is_pushed_within_seconds(world: World) -> None:
    async with running(world, world.process()):
        world.accept("MAC")
        await world.clock.run(10 * SECOND)
        world.enroll("MAC")
        await world.clock.run(15 * SECOND)

    assert world.pushed() == ["MAC"]


async def test_a_device_of_a_stopped_topic_is_pushed_once_the_topic_works(world: World) -> None:
    world.enroll("MAC")
    world.apns.script.append(TopicRefused("403 BadCertificate"))
    async with running(world, world.process()):
        world.accept("MAC")
        await world.clock.run(10 * SECOND)
        refused = world.pushes.rows["MAC"].error
        await world.clock.run(16 * MINUTE)

    assert refused == "403 BadCertificate"
    assert world.pushes.rows["MAC"].error is None


async def test_a_push_recorded_while_the_sweep_looked_is_not_forgotten(world: World) -> None:
    now = world.clock.now()
    newer = PushRecord("MAC", now, now + HOUR)
    await world.pushes.record([PushRecord("MAC", now - HOUR, now)])

    async def push_meanwhile(operation: str) -> None:
        await world.pushes.record([newer])

    world.queue.before = push_meanwhile
    await world.process().silent()

    assert world.pushes.rows == {"MAC": replace(newer, tried_at=now.replace(microsecond=0))}


async def test_replicas_push_each_device_once(world: World) -> None:
    devices = [f"D{number}" for number in range(40)]
    for device in devices:
        world.enroll(device)
    shares = [FixedShare(assigned(name, "abc")) for name in "abc"]
    async with running(world, *(world.process(share) for share in shares)):
        for device in devices:
            world.accept(device)
        await world.clock.run(10 * SECOND)
        unpushed = sorted(world.pushed())
        await world.clock.run(5 * MINUTE + 10 * SECOND)

    assert unpushed == sorted(devices)
    assert sorted(world.pushed()) == sorted(devices * 2)


async def test_who_takes_a_partition_over_looks_back_to_where_it_was_left(world: World) -> None:
    world.enroll("MAC")
    mine = frozenset({partition_of("MAC")})
    dying, surviving = FixedShare(mine), FixedShare(ALL - mine)
    async with running(world, world.process(surviving)):
        async with running(world, world.process(dying)):
            await world.clock.run(MINUTE)
        world.accept("MAC")
        await world.clock.run(HOUR)
        left_alone = world.pushed()
        surviving.partitions = ALL
        await world.clock.run(10 * SECOND)

    assert left_alone == []
    assert world.pushed() == ["MAC"]


async def test_the_sweep_survives_a_store_that_is_away(world: World) -> None:
    world.enroll("MAC")

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    async def back(operation: str) -> None:
        await asyncio.sleep(0)

    async with running(world, world.process()):
        await world.clock.run(10 * SECOND)
        world.accept("MAC")
        world.queue.before = world.pushes.before = world.enrollments.before = away
        await world.clock.run(MINUTE)
        world.queue.before = world.pushes.before = world.enrollments.before = back
        await world.clock.run(10 * SECOND)

    assert world.pushed() == ["MAC"]


async def test_a_push_that_could_not_be_recorded_is_repeated_and_the_position_waits(
    world: World,
) -> None:
    world.enroll("MAC")

    async def no_records(operation: str) -> None:
        if operation == "record":
            raise StoreUnavailable("away")

    async def back(operation: str) -> None:
        await asyncio.sleep(0)

    async with running(world, world.process()):
        await world.clock.run(10 * SECOND)
        accepted = world.clock.now()
        world.accept("MAC")
        world.pushes.before = no_records
        await world.clock.run(MINUTE)
        position = min(world.pushes.stored_positions.values())
        world.pushes.before = back
        await world.clock.run(10 * SECOND)

    assert position <= accepted + 5 * SECOND
    assert "MAC" in world.pushes.rows


async def test_leaving_gives_the_partitions_up_and_begins_nothing_new(world: World) -> None:
    world.enroll("MAC")
    share = FixedShare()
    sweep = world.process(share)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(sweep.run(Loops(world.clock)))
        await settle()
        await sweep.leave()
        world.accept("MAC")
        await world.clock.run(2 * MINUTE)

    assert share.has_left
    assert world.pushed() == []


@pytest.mark.parametrize(
    ("enrollment", "key"),
    [
        ("MAC", EnrollmentKey("MAC", "MAC")),
        ("MAC:anna", EnrollmentKey("MAC:anna", "MAC", user="anna")),
    ],
)
def test_an_enrollments_id_names_its_device(enrollment: str, key: EnrollmentKey) -> None:
    assert key_of(enrollment) == key


class MovingClock(FakeClock):
    """As a real one: it is later at each look."""

    def now(self) -> datetime:
        self.advance(timedelta(microseconds=100))
        return super().now()


class CountingQueue(FakeCommandQueue):
    """Counts the looks at what was accepted."""

    looks = 0

    def accepted_between(self, since: datetime, until: datetime) -> AsyncIterator[list[QueueEntry]]:
        self.looks += 1
        return super().accepted_between(since, until)


async def test_a_sweep_that_has_caught_up_rests_though_time_goes_on() -> None:
    world = World()
    world.clock, world.queue = MovingClock(), CountingQueue()
    async with running(world, world.process()):
        await settle()
        looks = world.queue.looks

        await settle()

    assert looks > 0
    assert world.queue.looks == looks


class SlowApns(FakeApnsSender):
    """Answers after 55 s."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    async def push(self, push: Push) -> Outcome:
        await self._clock.sleep(55 * SECOND)
        return await super().push(push)


@pytest.mark.parametrize("is_silent", [False, True], ids=["never pushed", "silent"])
async def test_pushes_that_go_on_slowly_are_no_loop_that_hangs(is_silent: bool) -> None:
    world = World()
    world.apns = SlowApns(world.clock)
    accepted = world.clock.now()
    devices = [f"D{number}" for number in range(1200)]
    for device in devices:
        world.enroll(device)
        world.accept(device)
    await world.clock.run(SECOND)
    if is_silent:
        now = world.clock.now()
        await world.pushes.record([PushRecord(each, now, now) for each in devices])
    loops, named = Loops(world.clock), set[str]()
    sweeping = asyncio.create_task(world.process().run(loops))
    while len(world.apns.pushes) < len(devices):
        await world.clock.run(10 * SECOND)
        named.update(loops.failing())
        assert world.clock.now() - accepted < 10 * MINUTE
    sweeping.cancel()
    await asyncio.wait({sweeping})

    assert world.clock.now() - accepted > FAILING_AFTER
    assert named == set()
