"""The contract of `AuditLog`, held by the fake and by MongoDB with both drivers."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.access import AuditEntry, AuditQuery
from shared.domain.errors import BadRequest
from shared.ports.access import AuditLog
from tests.contract.stores import STORES, open_store
from tests.support.fakes.audit import FakeAuditLog

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
ALL = AuditQuery(since=NOW - 365 * DAY, until=NOW + 365 * DAY)


@pytest.fixture(params=STORES)
async def audit(request: pytest.FixtureRequest) -> AsyncIterator[AuditLog]:
    if request.param == "fake":
        yield FakeAuditLog()
        return
    from shared.storage.access import audit as storage

    async with open_store(request) as mongo:
        await mongo.ensure(storage.indexes(400 * DAY))
        yield storage.MongoAuditLog(mongo)


def entry(number: int, **changed: object) -> AuditEntry:
    made = AuditEntry(
        id=f"{number:08x}-0000-7000-8000-000000000000",
        at=NOW + number * SECOND,
        caller="ci",
        address="192.0.2.1",
        route="POST /v1/devices/{udid}/block",
        action="device.block",
        status=200,
        targets=("MAC",),
    )
    return replace(made, **changed)  # type: ignore[arg-type]  # the fields of an entry


async def numbers(audit: AuditLog, query: AuditQuery) -> list[int]:
    """Of the entries found, page after page."""
    found: list[int] = []
    while True:
        page = await audit.find(query)
        found += [int(each.id[:8], 16) for each in page.entries]
        assert len(page.entries) <= query.limit
        if page.next is None:
            return found
        query = replace(query, cursor=page.next)


async def test_what_was_recorded_is_found_unchanged(audit: AuditLog) -> None:
    rich = entry(
        1, targets=("MAC", "PAD"), targets_left_out=3, detail="EraseDevice", request_id="r-1"
    )
    poor = entry(2, targets=())

    await audit.record([rich])
    await audit.record([poor])

    assert (await audit.find(ALL)).entries == (poor, rich)


async def test_an_empty_log_has_one_empty_page(audit: AuditLog) -> None:
    await audit.record([])

    page = await audit.find(ALL)

    assert (page.entries, page.next) == ((), None)


async def test_the_latest_written_come_first(audit: AuditLog) -> None:
    await audit.record([entry(1), entry(2)])
    await audit.record([entry(3)])

    assert await numbers(audit, ALL) == [3, 2, 1]


async def test_recording_again_keeps_one(audit: AuditLog) -> None:
    await audit.record([entry(1), entry(2)])
    await audit.record([entry(1), entry(2)])

    assert await numbers(audit, ALL) == [2, 1]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_paging_sees_each_entry_once(audit: AuditLog, limit: int) -> None:
    for first in range(0, 20, 5):
        await audit.record([entry(number) for number in range(first, first + 5)])

    assert await numbers(audit, replace(ALL, limit=limit)) == list(reversed(range(20)))


async def test_what_is_recorded_meanwhile_does_not_move_a_page(audit: AuditLog) -> None:
    await audit.record([entry(1), entry(2), entry(3)])
    first = await audit.find(replace(ALL, limit=2))

    await audit.record([entry(4)])

    assert await numbers(audit, replace(ALL, limit=2, cursor=first.next)) == [1]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"caller": "night"}, [3]),
        ({"action": "token.create"}, [4, 2]),
        ({"target": "PAD"}, [5, 2]),
        ({"target": "PAD", "action": "token.create"}, [2]),
        ({"caller": "night", "target": "PAD"}, []),
        ({"caller": "nobody"}, []),
        ({"since": NOW + 3 * SECOND}, [5, 4, 3]),
        ({"until": NOW + 3 * SECOND}, [2, 1]),
        ({"since": NOW + 2 * SECOND, "until": NOW + 4 * SECOND}, [3, 2]),
        ({"since": NOW + 4 * SECOND, "until": NOW + 2 * SECOND}, []),
    ],
)
@pytest.mark.parametrize("limit", [1, 100])
async def test_filters_find_what_they_say_and_no_more(
    audit: AuditLog, filters: dict[str, object], expected: list[int], limit: int
) -> None:
    entries = [
        entry(1),
        entry(2, action="token.create", targets=("MAC", "PAD")),
        entry(3, caller="night"),
        entry(4, action="token.create"),
        entry(5, targets=("PAD",)),
    ]
    await audit.record(entries[:3])
    await audit.record(entries[3:])

    query = replace(ALL, limit=limit, **filters)  # type: ignore[arg-type]  # of a query

    assert await numbers(audit, query) == expected


async def test_old_entries_are_found_behind_a_long_quiet(audit: AuditLog) -> None:
    await audit.record([entry(1, at=NOW - 300 * DAY)])
    await audit.record([entry(2)])

    assert await numbers(audit, replace(ALL, limit=1)) == [2, 1]


async def test_the_longest_time_is_a_time(audit: AuditLog) -> None:
    always = replace(
        ALL, since=datetime.min.replace(tzinfo=UTC), until=datetime.max.replace(tzinfo=UTC)
    )
    await audit.record([entry(1)])

    assert await numbers(audit, always) == [1]


@pytest.mark.parametrize("cursor", ["x", "1.x", "-.-", "é", f"{'9' * 15}-x.1"])
async def test_a_cursor_that_nobody_gave_is_refused(audit: AuditLog, cursor: str) -> None:
    with pytest.raises(BadRequest):
        await audit.find(replace(ALL, cursor=cursor))
