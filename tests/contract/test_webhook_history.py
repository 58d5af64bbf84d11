"""The contracts of `DeliveryRecords`, `Replays` and `Activities`, held by the fakes and by all stores."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.subscription import (
    Activity,
    AttemptRecord,
    Delivery,
    DeliveryQueueKey,
    DeliveryState,
    Replay,
    ReplayChoice,
    ReplayState,
)
from shared.ports.deliveries import Activities, Deliveries, DeliveryRecords, Replays
from shared.security.encryption import AesKeyring
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.deliveries import FakeDeliveries
from tests.support.fakes.webhook_history import FakeActivities, FakeDeliveryRecords, FakeReplays

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
CHOICE = ReplayChoice(
    ("e1", "e2"), 5, 7 * 10**18, frozenset({"mdm.Connect"}), "MAC", has_failed=True
)
REPLAY = Replay("r1", "a", CHOICE, NOW, "ci", position="e1", stored=3, owner="p", heartbeats=2)
ATTEMPT = AttemptRecord(
    "e1", NOW, 2, 3, 500, timedelta(milliseconds=7), "answered 500", "no: secret"
)
ACTIVITY = Activity("a", "p", NOW, 5, 2, replace(ATTEMPT, reason=None, answer=None), (ATTEMPT,))


@dataclass
class History:
    deliveries: Deliveries
    records: DeliveryRecords
    replays: Replays
    activities: Activities
    database: Any = None


@pytest.fixture(params=STORES)
async def history(request: pytest.FixtureRequest) -> AsyncIterator[History]:
    if request.param == "fake":
        deliveries = FakeDeliveries()
        records = FakeDeliveryRecords(deliveries.records)
        yield History(deliveries, records, FakeReplays(), FakeActivities())
        return
    from shared.storage.events.deliveries import INDEXES, MongoDeliveries
    from shared.storage.events.webhook_history import (
        MongoActivities,
        MongoDeliveryRecords,
        MongoReplays,
        indexes,
    )

    async with open_store(request) as database:
        await database.ensure([*INDEXES, *indexes(timedelta(days=1))])
        yield History(
            MongoDeliveries(database, KEYRING),
            MongoDeliveryRecords(database),
            MongoReplays(database),
            MongoActivities(database, KEYRING),
            database,
        )


def owed(subscription: str, event: str, device: str = "MAC") -> Delivery:
    return Delivery(DeliveryQueueKey(subscription, device), event, 1, topic="mdm.Connect")


async def store(history: History, *deliveries: Delivery) -> None:
    for each in deliveries:
        await history.deliveries.store([each])


async def test_deliveries_of_a_subscription_are_read_in_pages_by_event_id(history: History) -> None:
    await store(history, *(owed("b", each) for each in "dacb"), owed("a", "a"), owed("bb", "a"))

    first = await history.records.page("b", "", 2)
    second = await history.records.page("b", "b", 2)

    assert [each.event_id for each in first] == ["a", "b"]
    assert second == [owed("b", "c"), owed("b", "d")]
    assert await history.records.page("b", "d", 2) == []
    assert [each.event_id for each in await history.records.page("b", "a", 9, before="c")] == ["b"]


async def test_a_page_has_dead_letters_too(history: History) -> None:
    await store(history, owed("a", "1"), owed("a", "2"))
    await history.deliveries.skip("a:1", b"body")

    found = await history.records.page("a", "", 9)

    assert [each.state for each in found] == [DeliveryState.DEAD_LETTERED, DeliveryState.PENDING]


async def test_what_is_forgotten_is_gone_and_the_number_is_returned(history: History) -> None:
    await store(history, owed("a", "1"), owed("a", "2"), owed("a", "3"))
    await history.deliveries.skip("a:2", None)

    assert await history.records.forget(["a:1", "a:2", "a:9"], pending=True) == 1
    assert [each.event_id for each in await history.records.page("a", "", 9)] == ["2", "3"]
    assert await history.records.forget(["a:2", "a:3"]) == 2
    assert await history.records.page("a", "", 9) == []


async def test_what_waits_with_a_body_of_its_own_is_not_forgotten_with_what_is_pending(
    history: History,
) -> None:
    await store(history, owed("a", "1"), owed("a", "2"))
    await history.deliveries.skip("a:1", b"the body")
    await history.deliveries.skip("a:2", None)
    await history.deliveries.retry(["a:1", "a:2"], NOW)

    assert await history.records.forget(["a:1", "a:2"], pending=True) == 1

    assert [each.event_id for each in await history.records.page("a", "", 9)] == ["1"]
    assert await history.records.forget(["a:1"]) == 1


async def test_a_replay_is_stored_once(history: History) -> None:
    replays = history.replays
    await replays.add(REPLAY)
    await replays.add(replace(REPLAY, stored=0))

    assert await replays.get("a", "r1") == REPLAY
    assert await replays.get("a", "r2") is None


async def test_replays_are_those_of_their_subscription(history: History) -> None:
    replays = history.replays
    for subscription, id in (("b", "r2"), ("b", "r1"), ("a", "r1"), ("bb", "r1")):
        await replays.add(replace(REPLAY, subscription=subscription, id=id))

    assert [each.key for each in await replays.of("b")] == ["b:r1", "b:r2"]
    assert [each.key for each in await replays.running()] == ["a:r1", "b:r1", "b:r2", "bb:r1"]
    await replays.remove(["b:r1", "b:r2"])
    assert await replays.of("b") == []


async def test_a_replay_goes_on_by_the_hand_of_one_process(history: History) -> None:
    replays = history.replays
    await replays.add(REPLAY)
    mine = replace(REPLAY, owner="q", heartbeats=3, stored=4)

    assert await replays.advance(mine, REPLAY) is True
    assert await replays.advance(replace(REPLAY, heartbeats=4), REPLAY) is False
    assert await replays.advance(replace(mine, heartbeats=4), replace(mine, owner="p")) is False

    assert await replays.get("a", "r1") == mine


async def test_a_replay_that_has_ended_no_longer_runs(history: History) -> None:
    replays = history.replays
    await replays.add(REPLAY)
    ended = replace(REPLAY, state=ReplayState.DONE, finished_at=NOW, heartbeats=3)

    assert await replays.advance(ended, REPLAY) is True

    assert await replays.running() == []
    assert await replays.of("a") == [ended]


async def test_the_latest_activity_of_each_process_counts(history: History) -> None:
    activities = history.activities
    await activities.note([ACTIVITY, replace(ACTIVITY, process="q", last_success=None)])
    await activities.note([replace(ACTIVITY, delivered=6), replace(ACTIVITY, subscription="b")])

    found = await activities.of("a")

    assert found == [
        replace(ACTIVITY, delivered=6),
        replace(ACTIVITY, process="q", last_success=None),
    ]
    await activities.remove("a")
    assert await activities.of("a") == []
    assert len(await activities.of("b")) == 1


async def test_answers_of_receivers_are_not_stored_in_clear(history: History) -> None:
    await history.activities.note([ACTIVITY])

    if history.database is not None:
        stored = repr(await history.database.collection("activities").find_one({"_id": "a:p"}))
        assert "secret" not in stored
    assert "secret" not in repr(ACTIVITY)


@pytest.mark.parametrize("history", STORES[1:], indirect=True)  # the fake encrypts nothing
async def test_a_lost_key_takes_the_answers_away_and_no_more(history: History) -> None:
    await history.activities.note([ACTIVITY])
    from shared.storage.events.webhook_history import MongoActivities

    other = MongoActivities(history.database, AesKeyring([b"a later secret key, of 32 bytes "]))

    assert await other.of("a") == [replace(ACTIVITY, failures=())]
