"""A device whose record is full costs nobody else anything: in the fake, and in every store."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import bson
import pytest

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.journal.takeover import STALE_AFTER
from shared.concurrency.batching import verdicts
from shared.domain.enrollment import Refusal
from shared.domain.errors import TooLarge
from shared.ports.enrollments import Mark
from shared.storage.database import Database
from shared.storage.enrollments.changes import MongoRefusals
from shared.storage.enrollments.identities import MongoIdentities
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events import journal
from shared.storage.heartbeats import MongoWriters
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.checkin_world import Device, Killed, Replica, Step, World
from tests.support.fakes.journal import Confirm

MOST = 16 * 1024 * 1024
NAME_AND_LENGTH = 1 + len("filler\0") + 4 + 1
DEVICE = Device("FULL", "cert-full")
NEIGHBOURS = [Device(f"D{n}", f"cert-{n}") for n in range(5)]


@dataclass
class Full:
    """A world in which one of six devices has a record that holds nothing more."""

    world: World
    fill: Callable[[], Awaitable[None]]

    async def begun(self) -> Replica:
        replica = await self.world.replica()
        for device in (*NEIGHBOURS, DEVICE):
            await device.enroll(replica)
        await replica.writer.raise_heartbeat()
        await self.fill()
        return replica

    async def since(self, device: Device) -> int | None:
        waiting = await self.world.enrollments.read_waiting(device.udid)
        return None if waiting is None else waiting.since

    async def watermark(self, writer: str) -> int:
        return {each.id: each.watermark for each in await self.world.writers.all()}[writer]


def _world_on(database: Database) -> World:
    world = World()
    world.enrollments = MongoEnrollments(database, KEYRING)  # type: ignore[assignment]  # the port
    world.identities = MongoIdentities(database, KEYRING)  # type: ignore[assignment]
    world.refusals = MongoRefusals(database)  # type: ignore[assignment]
    world.journal = journal.MongoJournal(database, KEYRING)  # type: ignore[assignment]
    world.writers = MongoWriters(database)  # type: ignore[assignment]
    return world


@pytest.fixture(params=STORES)
async def full(request: pytest.FixtureRequest) -> AsyncIterator[Full]:
    if request.param == "fake":
        world = World()

        async def pretend() -> None:
            world.enrollments.full.add(DEVICE.udid)

        yield Full(world, pretend)
        return
    async with open_store(request) as database:
        await database.ensure(journal.indexes(timedelta(days=30)))
        records = database.collection("enrollments")

        async def fill() -> None:
            [record] = await records.find({"_id": DEVICE.udid})
            free = MOST - len(bson.encode(record)) - NAME_AND_LENGTH
            await records.update_one({"_id": DEVICE.udid}, {"$set": {"filler": "x" * free}})

        yield Full(_world_on(database), fill)


async def test_a_full_record_takes_no_mark(full: Full) -> None:
    await full.begun()

    with pytest.raises(TooLarge):
        await full.world.enrollments.mark_waiting([Mark("D0", 7), Mark("FULL", 7)])


async def test_rule_02_neighbours_of_a_full_record_are_served(full: Full) -> None:
    replica = await full.begun()
    requests = [device.token_update(token=b"longer than it was") for device in NEIGHBOURS]
    requests.insert(2, DEVICE.token_update(token=b"longer than it was" * 10))

    answers = await replica.serve(*requests)

    [refused] = [answer for answer in answers if answer != Answer()]
    assert isinstance(refused, DeviceRefused)
    assert "FULL" in str(refused)
    assert answers.index(refused) == 2


async def test_rule_02_neighbours_of_a_message_that_no_journal_can_hold_are_served(
    full: Full,
) -> None:
    replica = await full.world.replica()
    for device in NEIGHBOURS:
        await device.enroll(replica)
    large, *small = [device.idle() for device in NEIGHBOURS]

    *answers, refused = await replica.serve(*small, replace(large, body=b"x" * MOST))
    await replica.writer.raise_heartbeat()

    assert answers == [Answer()] * len(small)
    assert isinstance(refused, DeviceRefused)
    assert await full.watermark(replica.writer.id) == 3 * len(NEIGHBOURS)


async def test_rule_02_neighbours_of_a_full_record_bind_certificates(full: Full) -> None:
    replica = await full.begun()
    renewed = [Device(each.udid, f"{each.certificate}-next") for each in (*NEIGHBOURS, DEVICE)]

    *answers, refused = await replica.serve(*(device.authenticate() for device in renewed))

    assert answers == [Answer()] * len(NEIGHBOURS)
    assert isinstance(refused, DeviceRefused)


async def test_rule_08_neighbours_of_a_full_record_are_marked(full: Full) -> None:
    replica = await full.begun()
    full.world.publisher.outcome = lambda _: Confirm.LOST

    first, *others = await replica.serve(*(each.idle() for each in (DEVICE, *NEIGHBOURS)))

    assert not isinstance(first, Answer)
    assert others == [Answer()] * len(NEIGHBOURS)
    assert None not in [await full.since(device) for device in NEIGHBOURS]


async def test_rule_06_a_full_record_holds_no_watermark(full: Full) -> None:
    replica = await full.begun()
    before = await full.watermark(replica.writer.id)
    full.world.publisher.outcome = lambda _: Confirm.LOST
    await replica.serve(*(each.idle() for each in (DEVICE, *NEIGHBOURS)))

    await replica.writer.raise_heartbeat()

    assert await full.watermark(replica.writer.id) == before + 1 + len(NEIGHBOURS)


async def test_rule_07_a_take_over_goes_on_beside_a_full_record(full: Full) -> None:
    dead = await full.begun()
    dead.kill(Step.JOURNALED)
    with pytest.raises(Killed):
        await dead.serve(*(each.check_out() for each in (DEVICE, *NEIGHBOURS)))
    living = await full.world.replica()

    await living.takeover.look(living.writer.id)
    full.world.clock.advance(STALE_AFTER)
    await living.takeover.look(living.writer.id)

    assert None not in [await full.since(device) for device in NEIGHBOURS]
    assert await full.watermark(dead.writer.id) == 3 * (1 + len(NEIGHBOURS))
    assert living.metrics.marks_refused._value.get() >= 1


async def test_rule_10_what_may_be_answered_and_cannot_be_marked_is_kept_for_the_next_start(
    full: Full,
) -> None:
    dead = await full.begun()
    dead.kill(Step.JOURNALED)
    with pytest.raises(Killed):
        await dead.serve(*(each.check_out() for each in (DEVICE, *NEIGHBOURS)))
    before = await full.watermark(dead.writer.id)
    next_start = Replica(full.world)

    await next_start.takeover.take_all(next_start.writer.id)
    for _ in range(2):
        await next_start.takeover.look(next_start.writer.id)
        full.world.clock.advance(STALE_AFTER)

    assert None not in [await full.since(device) for device in NEIGHBOURS]
    assert await full.watermark(dead.writer.id) == before


async def test_devices_are_quarantined_beside_a_full_record(full: Full) -> None:
    replica = await full.begun()
    strangers = [Device(each.udid, "of nobody") for each in (DEVICE, *NEIGHBOURS)]
    await replica.serve(*(each.idle() for each in strangers))

    await replica.quarantine.flush()

    known = await full.world.enrollments.load([each.udid for each in NEIGHBOURS])
    assert None not in [record.quarantine for record in known.values()]


async def test_refusals_are_added_beside_a_full_record(full: Full) -> None:
    await full.begun()
    now = full.world.clock.now()
    refused = {
        each.udid: [Refusal(now, "plist", "x" * 99, "/mdm")] for each in (DEVICE, *NEIGHBOURS)
    }

    async def add(items: Sequence[tuple[str, list[Refusal]]]) -> list[None]:
        await full.world.refusals.add(dict(items))
        return [None] * len(items)

    outcomes = await verdicts(add, list(refused.items()))

    known = await full.world.enrollments.load([each.udid for each in NEIGHBOURS])
    assert isinstance(outcomes[0], TooLarge)
    assert [len(record.refusals) for record in known.values()] == [1] * len(NEIGHBOURS)
