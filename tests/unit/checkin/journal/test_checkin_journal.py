"""Events are never lost and stay in order: rules 6 to 8 and 15 (docs/rules.md)."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from services.checkin.answers import Answer
from services.checkin.journal.takeover import BATCH, FORGOTTEN_AFTER, STALE_AFTER
from shared.apple.messages.connect import Status
from shared.domain.errors import StoreUnavailable
from shared.domain.event import Event, Topic
from tests.support.checkin_world import Device, Killed, Replica, Step, World
from tests.support.fakes.journal import Confirm

CONFIRMED, LOST = Confirm.CONFIRMED, Confirm.LOST


def lose(world: World, *numbers: int) -> None:
    """Let the broker lose the first publish of the events with these entries in the journal."""
    left = list(numbers)

    def outcome(event: Event) -> Confirm:
        entry = list(world.journal.events).index(event.id)
        if entry in left:
            left.remove(entry)
            return LOST
        return CONFIRMED

    world.publisher.outcome = outcome


def journal_order(world: World, device: str = "MAC") -> list[str]:
    return [e.id for e in world.journal.events.values() if e.key.device == device]


async def enrolled() -> tuple[World, Replica, Device]:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    return world, replica, device


# --- rule 6: writers and watermarks


async def test_rule_06_the_watermark_stops_below_what_is_not_done() -> None:
    world, replica, device = await enrolled()
    held = replica.hold(Step.PUBLISHED)
    world.publisher.outcome = lambda _: LOST
    under_way = asyncio.create_task(replica.serve(device.idle()))
    await held.reached.wait()
    world.publisher.outcome = lambda _: CONFIRMED
    await replica.serve(Device("B", "cert-b").authenticate())

    await replica.writer.raise_heartbeat()
    below = world.writers.records[replica.writer.id].watermark
    held.released.set()
    await under_way
    await replica.writer.raise_heartbeat()

    assert below == 2  # Authenticate and TokenUpdate; the third is neither confirmed nor marked
    assert world.writers.records[replica.writer.id].watermark == 4


async def test_rule_06_an_event_whose_mark_failed_is_found_and_made_safe_later() -> None:
    world, replica, device = await enrolled()
    world.publisher.outcome = lambda _: LOST

    async def fail(operation: str) -> None:
        if operation == "mark_waiting":
            raise StoreUnavailable("cut")

    undisturbed, world.enrollments.before = world.enrollments.before, fail
    [answer] = await replica.serve(device.idle())
    world.enrollments.before = undisturbed
    await replica.writer.raise_heartbeat()

    assert not isinstance(answer, Answer)
    assert world.enrollments.records["MAC"].waiting.since is not None
    assert world.writers.records[replica.writer.id].watermark == 3


async def test_rule_06_a_fault_in_the_middle_of_a_batch_leaves_no_hole() -> None:
    world, replica, device = await enrolled()

    async def fail(operation: str) -> None:
        if operation == "mark_sent":
            raise RuntimeError("a bug")

    await world.enqueue(device.key, "c1")
    undisturbed, world.queue.before = world.queue.before, fail
    with pytest.raises(RuntimeError):
        await replica.serve(device.idle())
    world.queue.before = undisturbed
    await replica.writer.raise_heartbeat()
    await replica.relay_all()

    assert world.writers.records[replica.writer.id].watermark == 3
    assert world.publisher.firsts("MAC") == journal_order(world)


async def test_rule_06_a_writer_that_left_is_not_brought_back_by_its_heartbeat() -> None:
    world, replica, _ = await enrolled()
    await replica.writer.leave()

    await replica.writer.raise_heartbeat()

    assert world.writers.records == {}


async def test_rule_06_numbers_of_a_writer_have_no_holes_and_no_repeats() -> None:
    world, replica, device = await enrolled()
    for _ in range(5):
        await replica.serve(device.idle())

    assert [e.number for e in world.journal.events.values()] == list(range(1, 8))


# --- rule 7: take-over


async def dead_after(step: Step) -> tuple[World, Device, Replica]:
    """A replica that died at this step of a CheckOut, and one that lives."""
    world, dead, device = await enrolled()
    await dead.writer.raise_heartbeat()
    dead.kill(step)
    with pytest.raises(Killed):
        await dead.serve(device.check_out())
    return world, device, await world.replica()


async def test_rule_07_an_unanswered_check_out_of_a_dead_writer_is_published() -> None:
    world, _, living = await dead_after(Step.JOURNALED)

    await living.takeover.look(living.writer.id)
    world.clock.advance(STALE_AFTER)
    await living.takeover.look(living.writer.id)
    await living.relay_all()

    assert world.publisher.published[-1].topic is Topic.CHECK_OUT


async def test_rule_07_a_writer_is_left_alone_until_its_heartbeat_stands_still() -> None:
    world, _, living = await dead_after(Step.JOURNALED)
    await living.takeover.look(living.writer.id)
    world.clock.advance(STALE_AFTER - timedelta(seconds=1))

    await living.takeover.look(living.writer.id)

    assert world.enrollments.records["MAC"].waiting.since is None


async def test_rule_07_the_lease_keeps_two_replicas_from_doing_it_twice() -> None:
    world, _, living = await dead_after(Step.JOURNALED)
    other = await world.replica()
    for replica in (living, other):
        await replica.takeover.look(replica.writer.id)
    world.clock.advance(STALE_AFTER)
    await living.writer.raise_heartbeat()
    await other.writer.raise_heartbeat()

    await asyncio.gather(*(r.takeover.look(r.writer.id) for r in (living, other)))

    assert world.enrollments.records["MAC"].waiting.count == 1


async def test_rule_07_a_stopped_writer_that_wakes_up_loses_nothing() -> None:
    world, replica, device = await enrolled()
    other = await world.replica()
    held = replica.hold(Step.JOURNALED)
    under_way = asyncio.create_task(replica.serve(device.idle()))
    await held.reached.wait()
    await other.takeover.look(other.writer.id)
    world.clock.advance(STALE_AFTER)
    await other.takeover.look(other.writer.id)

    held.released.set()
    [answer] = await under_way
    await replica.writer.raise_heartbeat()
    await other.relay_all()

    assert answer == Answer()
    assert set(journal_order(world)) <= {event.id for event in world.publisher.published}


async def test_rule_07_a_take_over_that_is_cut_short_goes_on_where_it_was() -> None:
    world, dead, device = await enrolled()
    dead.kill(Step.JOURNALED)
    with pytest.raises(Killed):
        await dead.serve(device.idle())
    [*_, last] = world.journal.events.values()
    for number in range(last.number + 1, 3 * BATCH):
        await world.journal.append([replace(last, id=f"e{number}", number=number)])
    living = await world.replica()
    marks = 0

    async def fail_at_the_second(operation: str) -> None:
        nonlocal marks
        marks += operation == "mark_waiting"
        if marks == 2:
            raise StoreUnavailable("cut")

    world.enrollments.before = fail_at_the_second
    with pytest.raises(StoreUnavailable):
        await living.takeover.take(world.writers.records[dead.writer.id])

    assert world.writers.records[dead.writer.id].watermark == BATCH


async def test_rule_07_a_dead_writer_is_forgotten_in_the_end() -> None:
    world, _, living = await dead_after(Step.JOURNALED)
    for _ in range(3):
        await living.takeover.look(living.writer.id)
        world.clock.advance(FORGOTTEN_AFTER)

    await living.takeover.look(living.writer.id)

    assert list(world.writers.records) == [living.writer.id]


# --- rule 8: a device with a backlog stays behind it


async def test_rule_08_an_event_without_a_confirm_waits_and_later_ones_stay_behind_it() -> None:
    world, replica, device = await enrolled()
    lose(world, 2)

    for _ in range(3):
        assert await replica.serve(device.idle()) == [Answer()]
    before = world.publisher.firsts("MAC")
    await replica.relay_all()

    assert before == journal_order(world)[:2]
    assert world.publisher.firsts("MAC") == journal_order(world)
    assert world.enrollments.records["MAC"].waiting.since is None


async def test_rule_08_user_channels_stay_behind_their_devices_backlog() -> None:
    world, replica, device = await enrolled()
    lose(world, 2)
    await replica.serve(device.idle())

    await replica.serve(device.token_update(device.user("anna")))

    assert len(world.publisher.published) == 2
    await replica.relay_all()
    assert world.publisher.firsts("MAC") == journal_order(world)


async def test_rule_08_an_event_behind_a_backlog_is_later_than_it_whatever_the_clock_says() -> None:
    world, replica, device = await enrolled()
    lose(world, 2)
    await replica.serve(device.idle())
    other = await world.replica()
    world.clock.set_back(timedelta(hours=1))

    await other.serve(device.reports(Status.ACKNOWLEDGED, "nobody-knows"))
    await other.relay_all()

    assert world.publisher.firsts("MAC") == journal_order(world)


async def test_rule_08_a_clock_that_was_ahead_moves_no_other_devices_events() -> None:
    world, replica, device = await enrolled()
    ahead = await world.replica()
    await Device("OTHER", "cert-other").enroll(replica)
    lose(world, 4)
    now = world.clock.time_ns()
    world.clock.advance(timedelta(hours=1))
    await ahead.serve(device.idle())
    world.clock.set_back(timedelta(hours=1))

    await replica.serve(device.idle())
    await replica.serve(Device("OTHER", "cert-other").idle())
    await replica.relay_all()

    *_, behind, other = world.journal.events.values()
    assert behind.created_at > now + 3_599_000_000_000
    assert other.created_at < now + 1_000_000_000
    assert world.publisher.firsts("MAC") == journal_order(world)


async def test_rule_08_a_mark_that_a_deposed_primary_did_not_show_is_not_overtaken() -> None:
    world, replica, device = await enrolled()
    other = await world.replica()
    held = replica.hold(Step.AUTHORIZED)
    late = asyncio.create_task(replica.serve(device.idle()))  # it has read that nothing waits
    await held.reached.wait()
    world.journal.term = "second"
    lose(world, 2)
    assert await other.serve(device.idle()) == [Answer()]

    held.released.set()
    [answer] = await late
    published = world.publisher.firsts("MAC")
    await replica.writer.raise_heartbeat()
    await other.relay_all()

    assert isinstance(answer, StoreUnavailable)
    assert published == journal_order(world)[:2]
    assert world.publisher.firsts("MAC") == journal_order(world)
    assert world.writers.records[replica.writer.id].watermark == 3


async def test_rule_08_a_mark_raised_while_the_relay_works_is_not_cleared() -> None:
    world, replica, device = await enrolled()
    other = await world.replica()
    lose(world, 2)
    await replica.serve(device.idle())
    refused = []

    async def serve_first(operation: str) -> None:
        if operation == "clear_waiting":
            world.enrollments.before = undisturbed
            await other.serve(device.idle())
            refused.append(world.enrollments.records["MAC"].waiting)

    undisturbed, world.enrollments.before = world.enrollments.before, serve_first
    await replica.relay_all()

    assert refused[0].count == 2
    assert world.enrollments.records["MAC"].waiting.since is None
    assert world.publisher.firsts("MAC") == journal_order(world)
    assert len(world.publisher.published) == len(world.journal.events)


async def test_rule_08_the_mark_outlives_delete_and_authenticate() -> None:
    world, replica, device = await enrolled()
    lose(world, 2)
    await replica.serve(device.idle())
    await world.enrollments.remove(["MAC"], "removal")

    await replica.serve(device.authenticate())
    await replica.relay_all()

    assert world.publisher.firsts("MAC") == journal_order(world)


async def test_rule_08_no_200_when_neither_confirm_nor_mark_is_had() -> None:
    world, replica, device = await enrolled()
    world.publisher.outcome = lambda _: LOST
    record = world.enrollments.records.pop("MAC")

    async def give_back(operation: str) -> None:
        if operation == "load":
            world.enrollments.records["MAC"] = record
        if operation == "mark_waiting":
            del world.enrollments.records["MAC"]

    world.enrollments.before = give_back
    [answer] = await replica.serve(device.idle())

    assert not isinstance(answer, Answer)


async def test_rule_08_the_relay_stops_at_the_first_event_that_is_not_taken() -> None:
    world, replica, device = await enrolled()
    world.publisher.outcome = lambda _: LOST
    for _ in range(3):
        await replica.serve(device.idle())
    lose(world, 3)

    await replica.relay_all()

    assert world.publisher.firsts("MAC") == journal_order(world)[:3]
    assert world.enrollments.records["MAC"].waiting.since is not None


async def test_a_broker_that_is_away_is_not_asked_for_every_device_that_waits() -> None:
    world = World()
    replica = await world.replica()
    devices = [Device(f"D{n}", f"cert-{n}") for n in range(200)]
    for device in devices:
        await replica.serve(device.authenticate())
    world.publisher.outcome = lambda _: LOST
    for device in devices:
        await replica.serve(device.idle())
    asked = 0

    async def count(operation: str) -> None:
        nonlocal asked
        asked += 1
        world.publisher.is_live = asked < 8  # as the publisher finds out
        await asyncio.sleep(0)

    world.publisher.before = count
    await replica.relay_all()

    assert 0 < asked < 100


# --- rule 15: last_seen


async def test_last_seen_of_a_busy_few_does_not_keep_the_rest_waiting() -> None:
    world = World()
    replica = await world.replica()
    for name in ("A", "B"):
        await Device(name, f"cert-{name}").enroll(replica)
    now = world.clock.now()

    async def note_again(operation: str) -> None:
        if operation == "seen":
            replica.seen.note("A", now + timedelta(hours=2))

    replica.seen.note("A", now + timedelta(hours=1))
    replica.seen.note("B", now + timedelta(hours=1))
    world.enrollments.before = note_again
    async with asyncio.timeout(5):
        await replica.seen.flush()

    assert world.enrollments.records["B"].last_seen == now + timedelta(hours=1)


async def test_rule_15_last_seen_never_goes_back_and_never_makes_a_record() -> None:
    world, replica, _ = await enrolled()
    now = world.clock.now()
    replica.seen.note("MAC", now + timedelta(minutes=1))
    await replica.seen.flush()
    replica.seen.note("MAC", now)
    replica.seen.note("deleted", now)

    await replica.seen.flush()

    assert world.enrollments.records["MAC"].last_seen == now + timedelta(minutes=1)
    assert "deleted" not in world.enrollments.records


# --- all of it together


class Storm:
    """Devices that repeat what was not answered, two replicas that die, a broker that loses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World()
        self.world.publisher.outcome = self._outcome
        self.answered: dict[str, list[str]] = {}
        self.replicas: list[Replica] = []

    def _outcome(self, _: Event) -> Confirm:
        return self.random.choices(list(Confirm), weights=[6, 2, 2])[0]

    async def run(self) -> None:
        self.replicas = [await self.world.replica() for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for name in ("A", "B", "C"):
                group.create_task(self._device(Device(name, f"cert-{name}")))
            group.create_task(self._disturb())
        self.world.publisher.outcome = lambda _: CONFIRMED
        await self._quiet()

    async def _device(self, device: Device) -> None:
        say: list[Callable[[], object]] = [device.authenticate, device.token_update]
        say += [device.idle] * 12
        for make in say:
            await self._until_answered(device, make)

    async def _until_answered(self, device: Device, make: Callable[[], object]) -> None:
        for _ in range(200):
            replica = self.random.choice(self.replicas)
            before = set(self.world.journal.events)
            try:
                [answer] = await replica.serve(make())  # type: ignore[arg-type]
            except Killed:
                continue
            if isinstance(answer, Answer):
                mine = [
                    event.id
                    for event in self.world.journal.events.values()
                    if event.id not in before
                    and event.key.device == device.udid
                    and event.writer == replica.writer.id
                ]
                self.answered.setdefault(device.udid, []).append(mine[-1])
                return
        raise AssertionError("never answered")

    async def _disturb(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)
            index = self.random.randrange(2)
            action = self.random.randrange(4)
            if action == 0:
                self.replicas[index].kill(self.random.choice(list(Step)))
            elif action == 1:
                self.replicas[index] = await self.world.replica()
            else:
                await self.replicas[index].relay_all()

    async def _quiet(self) -> None:
        """Everything that died is taken over, everything that waits is relayed."""
        [living, *_] = self.replicas
        for _ in range(4):
            await living.takeover.look(living.writer.id)
            self.world.clock.advance(STALE_AFTER)
        for name in list(self.world.members.counts.get("relay", {})):
            if name != living.writer.id:
                await self.world.members.leave("relay", name)
        for _ in range(3):
            await living.relay_all()


@pytest.mark.parametrize("seed", range(60))
async def test_every_answered_event_is_published_in_its_devices_order(seed: int) -> None:
    storm = Storm(seed)

    await storm.run()

    for device, answered in storm.answered.items():
        firsts = storm.world.publisher.firsts(device)
        assert [e for e in firsts if e in set(answered)] == answered
    assert sum(map(len, storm.answered.values())) == 3 * 14
