"""A secret that cannot be opened fails what needs it, loudly, and nothing beside it."""

import asyncio
from collections.abc import Collection
from dataclasses import replace

import pytest

from services.checkin.turns import Answer
from services.webhook.delivery_store import DeliveryStore
from shared.apple.checkin import GetBootstrapToken, SetBootstrapToken
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import CannotOpen
from shared.domain.event import Event, Topic
from tests.fakes.clock import FakeClock, FakeIds
from tests.fakes.deliveries import FakeDeliveries
from tests.fakes.journal import FakeJournal
from tests.unit.checkin_world import Device, World

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")


async def test_a_bootstrap_token_that_cannot_be_opened_is_not_called_absent() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    record = world.enrollments.records["MAC"]
    world.enrollments.records["MAC"] = replace(record, unreadable="sealed with the key 01234567")

    [refused] = await replica.serve(device.says(GetBootstrapToken(device.key)))
    [answer] = await replica.serve(device.idle())

    assert isinstance(refused, CannotOpen)
    assert answer == Answer()


async def test_a_device_whose_record_cannot_be_opened_can_bring_its_token_anew() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    record = world.enrollments.records["MAC"]
    world.enrollments.records["MAC"] = replace(record, unreadable="sealed with the key 01234567")

    [answer] = await replica.serve(device.says(SetBootstrapToken(device.key, b"fresh")))

    assert answer == Answer()
    assert world.enrollments.records["MAC"].bootstrap_token == b"fresh"


class SealedJournal(FakeJournal):
    """Some of its events cannot be opened here."""

    def __init__(self, sealed: Collection[str]) -> None:
        super().__init__()
        self.sealed = set(sealed)

    async def read(self, ids: Collection[str]) -> dict[str, Event]:
        if self.sealed.intersection(ids):
            raise CannotOpen("sealed with the key 01234567")
        return await super().read(ids)


async def test_an_event_that_cannot_be_opened_does_not_hold_up_other_lanes() -> None:
    journal = SealedJournal({"b"})
    events = [Event(n, Topic.CONNECT, MAC, 1, b"x", writer="w", number=1) for n in "abc"]
    await journal.append(events)
    store = DeliveryStore(FakeDeliveries(), journal, FakeClock(), FakeIds())

    found = await asyncio.gather(*(store.event(n) for n in "abc"), return_exceptions=True)

    assert [found[0], found[2]] == [events[0], events[2]]
    assert isinstance(found[1], CannotOpen)


async def test_an_event_opens_once_its_key_is_there_again() -> None:
    journal = SealedJournal({"a"})
    event = Event("a", Topic.CONNECT, MAC, 1, b"x", writer="w", number=1)
    await journal.append([event])
    store = DeliveryStore(FakeDeliveries(), journal, FakeClock(), FakeIds())
    with pytest.raises(CannotOpen):
        await store.event("a")

    journal.sealed.clear()

    assert await store.event("a") == event
