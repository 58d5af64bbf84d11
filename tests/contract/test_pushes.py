"""The contract of `Pushes`, held by the fake and by MongoDB with both drivers."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.enrollment import PARTITIONS, partition_of
from shared.ports.pushes import Pushes, PushRecord
from shared.storage.queue.pushes import INDEXES, MongoPushes
from tests.contract.stores import STORES, open_store
from tests.support.fakes.pushes import FakePushes

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALL = range(PARTITIONS)
ENOUGH = 100


@pytest.fixture(params=STORES)
async def pushes(request: pytest.FixtureRequest) -> AsyncIterator[Pushes]:
    if request.param == "fake":
        yield FakePushes()
        return
    async with open_store(request) as mongo:
        await mongo.ensure(INDEXES)
        yield MongoPushes(mongo)


def record(enrollment: str = "MAC", due: timedelta = MINUTE, **changes: object) -> PushRecord:
    made = PushRecord(enrollment, tried_at=NOW, next_at=NOW + due)
    return replace(made, **changes)  # type: ignore[arg-type]  # any field of a PushRecord


async def test_a_record_comes_back_as_it_was_stored(pushes: Pushes) -> None:
    pushed = record(attempts=3, pushed_at=NOW, error=None)
    failed = record("PAD:anna", attempts=1, error="503")

    await pushes.record([pushed, failed])

    assert await pushes.load(["MAC", "PAD:anna", "nobody"]) == {"MAC": pushed, "PAD:anna": failed}


async def test_a_later_record_takes_the_entry_of_the_earlier_one(pushes: Pushes) -> None:
    await pushes.record([record(attempts=4, error="503")])
    later = record(attempts=0, pushed_at=NOW)

    await pushes.record([later])

    assert await pushes.load(["MAC"]) == {"MAC": later}


async def test_a_failed_push_keeps_the_time_of_the_last_one_that_worked(pushes: Pushes) -> None:
    await pushes.record([record(pushed_at=NOW)])

    await pushes.record([record(error="503")])

    assert (await pushes.load(["MAC"]))["MAC"] == record(error="503", pushed_at=NOW)


async def test_times_are_kept_to_the_millisecond(pushes: Pushes) -> None:
    fine = timedelta(microseconds=789)

    await pushes.record([record(tried_at=NOW + fine, next_at=NOW + MINUTE + fine)])

    assert await pushes.load(["MAC"]) == {"MAC": record()}


async def test_more_records_than_one_list_holds_are_loaded(pushes: Pushes) -> None:
    many = [record(f"D{number}") for number in range(70)]
    await pushes.record(many)

    found = await pushes.load([each.enrollment for each in many])

    assert found == {each.enrollment: each for each in many}


async def test_due_is_what_has_reached_its_time_the_longest_due_first(pushes: Pushes) -> None:
    now_due, long_due, later = record("A"), record("B", timedelta()), record("C", 2 * MINUTE)
    await pushes.record([now_due, long_due, later])

    due = await pushes.due(ALL, NOW + MINUTE, ENOUGH)

    assert due == [long_due, now_due]


async def test_due_gives_no_more_than_the_limit(pushes: Pushes) -> None:
    await pushes.record([record("A"), record("B", timedelta()), record("C", timedelta(seconds=1))])

    due = await pushes.due(ALL, NOW + MINUTE, 2)

    assert [each.enrollment for each in due] == ["B", "C"]


async def test_due_is_of_the_partitions_asked_for_and_a_user_channel_is_of_its_device(
    pushes: Pushes,
) -> None:
    await pushes.record([record("MAC"), record("MAC:anna"), record("PHONE")])

    due = await pushes.due([partition_of("MAC")], NOW + MINUTE, ENOUGH)

    assert partition_of("MAC") != partition_of("PHONE")
    assert {each.enrollment for each in due} == {"MAC", "MAC:anna"}


async def test_a_record_that_was_read_can_be_forgotten(pushes: Pushes) -> None:
    await pushes.record([record("MAC"), record("PAD")])

    await pushes.forget([(await pushes.load(["MAC"]))["MAC"]])

    assert set(await pushes.load(["MAC", "PAD"])) == {"PAD"}


async def test_a_push_recorded_since_the_read_is_not_forgotten(pushes: Pushes) -> None:
    await pushes.record([record()])
    read = (await pushes.load(["MAC"]))["MAC"]
    newer = record(tried_at=NOW + MINUTE, next_at=NOW + 2 * MINUTE)
    await pushes.record([newer])

    await pushes.forget([read])

    assert await pushes.load(["MAC"]) == {"MAC": newer}


async def test_nothing_to_do_is_no_error(pushes: Pushes) -> None:
    await pushes.record([])
    await pushes.forget([])
    await pushes.advance([], NOW)

    assert await pushes.load([]) == {}
    assert await pushes.positions() == {}


async def test_positions_are_kept_per_partition(pushes: Pushes) -> None:
    await pushes.advance([0, 31], NOW)
    await pushes.advance([31], NOW + MINUTE)

    assert await pushes.positions() == {0: NOW, 31: NOW + MINUTE}


async def test_positions_can_be_set_back_after_a_clock_went_wrong(pushes: Pushes) -> None:
    await pushes.advance([7, 8], NOW)

    await pushes.reset([7], NOW - MINUTE)

    assert await pushes.positions() == {7: NOW - MINUTE, 8: NOW}


async def test_advancing_never_moves_a_position_back(pushes: Pushes) -> None:
    await pushes.advance([7], NOW)

    await pushes.advance([7], NOW - MINUTE)

    assert await pushes.positions() == {7: NOW}
