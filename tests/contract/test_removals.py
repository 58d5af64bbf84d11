"""A removal is one write of each record: a device that enrolls beside it is removed before that, or not."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.domain.enrollment import EnrollmentKey, EnrollmentStatus
from shared.domain.event import Topic
from shared.domain.outbox import removed_by_client
from shared.ports.enrollments import Change
from shared.storage.database import Operation, Query
from shared.storage.enrollments.documents import NAME
from shared.storage.enrollments.store import MongoEnrollments
from tests.contract.stores import DRIVERS, KEYRING, open_store

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
AUTHENTICATE = Change(
    MAC, "gen-1", None, Topic.AUTHENTICATE, NOW, certificate="cert", makes_record=True
)


class Disturbed:
    """A collection; `beside` happens after its next write."""

    def __init__(self, of: Any) -> None:
        self._of = of
        self.beside: Callable[[], Awaitable[object]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    async def bulk_write(self, operations: Sequence[Operation]) -> Any:
        done = await self._of.bulk_write(operations)
        await self._disturb()
        return done

    async def update_many(self, query: Query, update: Query) -> Any:
        done = await self._of.update_many(query, update)
        await self._disturb()
        return done

    async def _disturb(self) -> None:
        beside, self.beside = self.beside, None
        if beside is not None:
            await beside()


class OfOne:
    """A database of which this collection is disturbed."""

    def __init__(self, database: Any, name: str) -> None:
        self._database = database
        self.disturbed = Disturbed(database.collection(name))
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def collection(self, name: str) -> Any:
        return self.disturbed if name == self._name else self._database.collection(name)


@pytest.fixture(params=DRIVERS)
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Disturbed]]:
    async with open_store(request) as database:
        of_one = OfOne(database, NAME)
        yield MongoEnrollments(of_one, KEYRING), of_one.disturbed


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_removal_beside_an_enrollment_is_one_write_of_each_record(
    stores: tuple[MongoEnrollments, Disturbed], is_told: bool
) -> None:
    enrollments, disturbed = stores
    assert await enrollments.apply([AUTHENTICATE]) == [True]
    again = Change(
        MAC,
        "gen-2",
        "gen-1",
        Topic.AUTHENTICATE,
        NOW,
        certificate="cert",
        expected_change="removal",
    )

    async def authenticates() -> None:
        assert await enrollments.apply([again]) == [True]

    disturbed.beside = authenticates
    events = {"MAC": removed_by_client("1", 7)} if is_told else None
    assert await enrollments.remove({"MAC"}, "removal", events) == ["MAC"]

    record = (await enrollments.load({"MAC"}))["MAC"]
    assert (record.generation, record.status) == ("gen-2", EnrollmentStatus.AUTHENTICATED)
