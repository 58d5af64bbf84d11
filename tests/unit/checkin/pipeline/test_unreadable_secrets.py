"""A secret that cannot be opened fails what needs it, loudly, and nothing beside it."""

import asyncio
from collections.abc import Collection
from dataclasses import replace

import pytest

from services.checkin.answers import Answer
from services.checkin.pipeline.commands import MISSES
from services.webhook.delivery.store import DeliveryStore
from shared.apple.messages.checkin import GetBootstrapToken, SetBootstrapToken
from shared.domain.command import EntryState
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import CannotDecrypt
from shared.domain.event import Event, Topic
from tests.support.checkin_world import Device, World
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.deliveries import FakeDeliveries
from tests.support.fakes.journal import FakeJournal

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")


async def test_a_bootstrap_token_that_cannot_be_opened_is_not_called_absent() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    record = world.enrollments.records["MAC"]
    world.enrollments.records["MAC"] = replace(record, unreadable="encrypted with the key 01234567")

    [refused] = await replica.serve(device.says(GetBootstrapToken(device.key)))
    [answer] = await replica.serve(device.idle())

    assert isinstance(refused, CannotDecrypt)
    assert answer == Answer()


async def test_a_device_whose_record_cannot_be_opened_can_bring_its_token_anew() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    record = world.enrollments.records["MAC"]
    world.enrollments.records["MAC"] = replace(record, unreadable="encrypted with the key 01234567")

    [answer] = await replica.serve(device.says(SetBootstrapToken(device.key, b"fresh")))

    assert answer == Answer()
    assert world.enrollments.records["MAC"].bootstrap_token == b"fresh"


async def test_commands_that_cannot_be_opened_hold_up_neither_their_queue_nor_other_devices() -> (
    None
):
    world = World()
    replica = await world.replica()
    first, second = Device(), Device("PAD", "certificate of PAD")
    lost = [f"lost-{number}" for number in range(5)]
    for device in (first, second):
        await device.enroll(replica)
    for uuid in (*lost, "good"):
        await world.enqueue(first.key, uuid)
    await world.enqueue(second.key, "other")
    world.queue.unreadable.update(lost)

    answers = await replica.serve(first.idle(), second.idle())

    assert answers == [Answer(b"plist-good"), Answer(b"plist-other")]
    states = {entry.command_uuid: entry.state for entry in world.queue.entries.values()}
    assert {states[uuid] for uuid in lost} == {EntryState.QUEUED}  # until the key is there again


async def test_of_a_queue_that_cannot_be_opened_a_bounded_part_is_looked_at() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    lost = [f"lost-{number:04}" for number in range(MISSES + 10)]
    for uuid in lost:
        await world.enqueue(device.key, uuid)
    world.queue.unreadable.update(lost)
    reads = 0

    async def before(step: str) -> None:
        nonlocal reads
        reads += step == "commands"

    world.queue.before = before

    assert await replica.serve(device.idle()) == [Answer()]
    assert reads == MISSES


class EncryptedJournal(FakeJournal):
    """Some of its events cannot be opened here."""

    def __init__(self, encrypted: Collection[str]) -> None:
        super().__init__()
        self.encrypted = set(encrypted)

    async def read(self, ids: Collection[str]) -> dict[str, Event]:
        if self.encrypted.intersection(ids):
            raise CannotDecrypt("encrypted with the key 01234567")
        return await super().read(ids)


async def test_an_event_that_cannot_be_opened_does_not_hold_up_other_queues() -> None:
    journal = EncryptedJournal({"b"})
    events = [Event(n, Topic.CONNECT, MAC, 1, b"x", writer="w", number=1) for n in "abc"]
    await journal.append(events)
    store = DeliveryStore(FakeDeliveries(), journal, FakeClock(), FakeIds())

    found = await asyncio.gather(*(store.event(n) for n in "abc"), return_exceptions=True)

    assert [found[0], found[2]] == [events[0], events[2]]
    assert isinstance(found[1], CannotDecrypt)


async def test_an_event_opens_once_its_key_is_there_again() -> None:
    journal = EncryptedJournal({"a"})
    event = Event("a", Topic.CONNECT, MAC, 1, b"x", writer="w", number=1)
    await journal.append([event])
    store = DeliveryStore(FakeDeliveries(), journal, FakeClock(), FakeIds())
    with pytest.raises(CannotDecrypt):
        await store.event("a")

    journal.encrypted.clear()

    assert await store.event("a") == event
