"""Queries go by the index that has the fewest rows; those that our adapters send are in `query_table`.

Every contract suite of SQLite runs behind `Watched`: these tests show that it watches, and the choices that
are easily made wrong.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.concurrency.clock import SystemClock
from shared.storage.queue.documents import QUEUE_ORDER
from shared.storage.sqlite import open_database
from shared.storage.sqlite.engine.plans import LISTED_TOGETHER, Way
from tests.contract.query_plans import Plans, Watched, all_indexes, plans
from tests.contract.query_table import MARK_SENT, QUERIES

NOW = datetime(2026, 5, 1, tzinfo=UTC)
RANGE = {"$gte": NOW, "$lte": NOW}
RIVALS = "open_device_1_collapse_key_1"


@pytest.fixture
async def of_all() -> Plans:
    return await plans()


def index_of(of_all: Plans, collection: str, query: dict[str, Any]) -> str:
    plan, _, _ = of_all.plan(collection, query)
    assert plan.known is not None
    return plan.known.index.name


@pytest.mark.parametrize(
    ("collection", "query", "expected"),
    [
        # open entries, not the history of the enrollment or of the command
        ("queue", {"open_device": "d", "enrollment": "e"}, MARK_SENT),
        ("queue", {"enrollment": "e", "open_device": "d"}, MARK_SENT),
        ("queue", {"enrollment": {"$in": ["e"]}, "open_device": {"$in": ["d"]}}, MARK_SENT),
        ("queue", {"command": "c", "open_device": "d"}, RIVALS),
        ("queue", {"open_device": {"$in": ["d"]}, "collapse_key": {"$in": ["c"]}}, RIVALS),
        ("queue", {"timer": RANGE, "accepted_at": RANGE}, "timer_1__id_1"),
        # what expired and is not told of, not all that finished
        (
            "queue",
            {"timer": {"$gte": NOW, "$lt": NOW}, "finished_at": {"$lt": NOW}},
            "timer_1__id_1",
        ),
        (
            "queue",
            {"finished_at": {"$lt": NOW}, "timer": {"$gte": NOW, "$lt": NOW}},
            "timer_1__id_1",
        ),
        # one enrollment of the window, not everybody's
        ("queue", {"accepted_at": RANGE, "enrollment": "e"}, "enrollment_1_accepted_at_1"),
        # one, not all that were renewed from it
        ("issued", {"renewed_from": "f", "fingerprint": "g"}, "fingerprint_1"),
    ],
)
def test_of_two_indexes_the_one_with_fewer_rows_is_taken(
    of_all: Plans, collection: str, query: dict[str, Any], expected: str
) -> None:
    assert index_of(of_all, collection, query) == expected


def test_two_lists_are_sought_in_an_index_of_both(of_all: Plans) -> None:
    rivals = {"open_device": {"$in": ["d", "e", "f"]}, "collapse_key": {"$in": ["c", "g"]}}

    _, statement, steps = of_all.plan("queue", rivals)

    assert steps == [f"SEARCH queue USING INDEX queue.{RIVALS} (open_device=? AND collapse_key=?)"]
    assert not statement.rest


def test_a_second_list_is_sought_where_it_is_short(of_all: Plans) -> None:
    keys = [str(number) for number in range(LISTED_TOGETHER + 1)]
    rivals = {"open_device": {"$in": ["d", "e"]}, "collapse_key": {"$in": keys}}

    _, statement, steps = of_all.plan("queue", rivals)

    assert steps == [f"SEARCH queue USING INDEX queue.{RIVALS} (open_device=?)"]
    assert [each.path for each in statement.rest] == ["collapse_key"]


def test_the_next_entry_is_sought_by_all_that_tells_it_apart(of_all: Plans) -> None:
    due = {
        "open_device": "d",
        "enrollment": "e",
        "state": "queued",
        "not_before": None,
        "generation": None,
    }

    _, _, steps = of_all.plan("queue", due, QUEUE_ORDER)

    equal = " AND ".join(f"{name}=?" for name in due)
    assert steps == [f"SEARCH queue USING INDEX queue.{MARK_SENT} ({equal})"]


def test_an_id_heartbeats_every_index(of_all: Plans) -> None:
    plan, _, steps = of_all.plan("queue", {"open_device": "d", "_id": {"$in": ["a", "b"]}})

    assert plan.way is Way.IDS
    assert steps == ["SEARCH queue USING INDEX sqlite_autoindex_queue_1 (_id=?)"]


async def test_a_query_that_is_not_listed_fails_its_test(of_all: Plans, tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    queue = Watched(database, of_all).collection("queue")

    await queue.find({"open_device": "d", "enrollment": "e"})
    for query in ({"state": "queued"}, {"open_device": "d", "state": "queued"}):
        with pytest.raises(AssertionError, match="not listed"):
            await queue.find(query)
        with pytest.raises(AssertionError, match="not listed"):
            await queue.update_many(query, {"$set": {"state": "sent"}})

    await database.close()


def test_every_index_serves_a_query_or_ends_documents(of_all: Plans) -> None:
    used = {(name, index) for name, rows in QUERIES.items() for index in rows}
    indexes = all_indexes()
    made = [index for index in indexes if not any(each.begins_with(index) for each in indexes)]
    idle = {
        (index.collection, index.name)
        for index in made
        if index.expire_after is None and not index.unique
    } - used

    assert idle == set()
