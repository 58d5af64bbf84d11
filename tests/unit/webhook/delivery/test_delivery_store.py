"""Promises of the store as delivery queues and retries see it: one that cannot be read fails only itself."""

import asyncio
from collections.abc import Collection

import pytest

from services.webhook.delivery.store import DeliveryStore
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import CannotDecrypt, OfNewerVersion
from shared.domain.event import Event, Topic
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.deliveries import FakeDeliveries
from tests.support.fakes.journal import FakeJournal


class JournalWithOneUnreadable(FakeJournal):
    """Raises for a read in which `bad` is, as the adapter does."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self._fault = fault

    async def read(self, ids: Collection[str]) -> dict[str, Event]:
        if "bad" in ids:
            raise self._fault
        return await super().read(ids)


def event(name: str) -> Event:
    key = EnrollmentKey("MAC", "MAC", udid="MAC")
    return Event(name, Topic.CONNECT, key, 0, b"<plist/>", "w", 1)


@pytest.mark.parametrize("fault", [CannotDecrypt("no key"), OfNewerVersion("a topic")], ids=repr)
async def test_an_event_that_cannot_be_read_fails_nobody_beside_it(fault: Exception) -> None:
    journal = JournalWithOneUnreadable(fault)
    await journal.append([event("e1"), event("e2")])
    store = DeliveryStore(FakeDeliveries(), journal, FakeClock(), FakeIds())

    found = await asyncio.gather(
        *(store.event(name) for name in ("e1", "bad", "e2", "gone")), return_exceptions=True
    )

    assert found == [event("e1"), fault, event("e2"), None]
