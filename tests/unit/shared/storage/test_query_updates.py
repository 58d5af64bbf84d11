"""Updates do to one document what MongoDB's manual says ("Update Operators", "Upsert Behavior")."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest

from shared.domain.errors import StoreUnavailable
from shared.storage.sqlite.query.filters import conditions_of
from shared.storage.sqlite.query.updates import check, steps_of, updated, upserted

NOW = datetime(2026, 5, 1, 12, 0, 0, 123_456, UTC)
CUT = NOW.replace(microsecond=123_000)


class Colour(StrEnum):
    RED = "red"


def after(document: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    check(update)
    changed = deepcopy(document)
    updated(changed, steps_of(update, NOW))
    return changed


@pytest.mark.parametrize(
    ("document", "update", "expected"),
    [
        # $set
        ({"a": 1}, {"$set": {"a": 2, "b": 3}}, {"a": 2, "b": 3}),
        ({}, {"$set": {"a.b.c": 1}}, {"a": {"b": {"c": 1}}}),
        ({"a": {"b": 1}}, {"$set": {"a.c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": [1]}, {"$set": {"a": {"b": 1}}}, {"a": {"b": 1}}),
        ({}, {"$set": {"a": NOW, "b": (1, NOW)}}, {"a": CUT, "b": [1, CUT]}),
        ({"a": 1}, {"$set": {}}, {"a": 1}),
        # $unset
        ({"a": 1, "b": 2}, {"$unset": {"a": ""}}, {"b": 2}),
        ({"a": 1}, {"$unset": {"missing": "", "a.b": "", "x.y": ""}}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"$unset": {"a.b": ""}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"$unset": {"a.b": ""}}, {"a": {}}),
        # $inc
        ({"a": 1}, {"$inc": {"a": 2, "b": 3, "c.d": 4}}, {"a": 3, "b": 3, "c": {"d": 4}}),
        ({"a": 2**31 - 1}, {"$inc": {"a": 1}}, {"a": 2**31}),
        ({"a": 2**62}, {"$inc": {"a": -1}}, {"a": 2**62 - 1}),
        ({"a": 1}, {"$inc": {"a": 0.5}}, {"a": 1.5}),
        # $min and $max, also over kinds: null < number < text < truth value < time
        ({"a": 5}, {"$min": {"a": 3}, "$max": {"b": 4}}, {"a": 3, "b": 4}),
        ({"a": 5}, {"$min": {"a": 7}}, {"a": 5}),
        ({"a": 5}, {"$max": {"a": 3}}, {"a": 5}),
        ({"a": 5}, {"$max": {"a": 5.0}}, {"a": 5}),
        ({"a": None}, {"$max": {"a": 3}}, {"a": 3}),
        ({"a": None}, {"$min": {"a": 3}}, {"a": None}),
        ({"a": 3}, {"$min": {"a": None}}, {"a": None}),
        ({"a": "9"}, {"$max": {"a": 10}}, {"a": "9"}),
        ({"a": "9"}, {"$min": {"a": 10}}, {"a": 10}),
        ({"a": "z"}, {"$max": {"a": False}}, {"a": False}),
        ({"a": True}, {"$max": {"a": NOW}}, {"a": CUT}),
        ({"a": CUT}, {"$max": {"a": NOW}}, {"a": CUT}),
        ({"a": CUT}, {"$min": {"a": NOW - timedelta(days=1)}}, {"a": CUT - timedelta(days=1)}),
        ({"a": {}}, {"$max": {"a.b": 1}}, {"a": {"b": 1}}),
        # $addToSet
        ({"a": [1]}, {"$addToSet": {"a": 2}}, {"a": [1, 2]}),
        ({"a": [1, 2]}, {"$addToSet": {"a": 2}}, {"a": [1, 2]}),
        ({"a": [1]}, {"$addToSet": {"a": {"$each": [1, 3, 2, 3]}}}, {"a": [1, 3, 2]}),
        ({"a": [1]}, {"$addToSet": {"a": True}}, {"a": [1, True]}),
        ({"a": [1]}, {"$addToSet": {"a": 1.0}}, {"a": [1]}),
        ({"a": [1]}, {"$addToSet": {"a": [2, 3]}}, {"a": [1, [2, 3]]}),
        ({"a": [{"x": 1, "y": 2}]}, {"$addToSet": {"a": {"x": 1, "y": 2}}}, {"a": [{"x": 1, "y": 2}]}),
        ({"a": ["red"]}, {"$addToSet": {"a": Colour.RED}}, {"a": ["red"]}),
        ({}, {"$addToSet": {"a": {"$each": ["x", "x"]}, "b.c": 1}}, {"a": ["x"], "b": {"c": [1]}}),
        ({}, {"$addToSet": {"a": {"$each": []}}}, {"a": []}),
        # $currentDate
        ({"a": 1}, {"$currentDate": {"a": True, "b": True}}, {"a": CUT, "b": CUT}),
        # several at once
        (
            {"a": 1, "b": 2},
            {"$set": {"c": 1}, "$unset": {"a": ""}, "$inc": {"b": 1}},
            {"b": 3, "c": 1},
        ),
    ],
)  # fmt: skip
def test_an_update_changes_a_document(
    document: dict[str, Any], update: dict[str, Any], expected: dict[str, Any]
) -> None:
    changed = after(document, update)

    assert changed == expected
    assert str(changed) == str(expected)  # 1 is not True, nor 1.0


@pytest.mark.parametrize(
    ("document", "update"),
    [
        ({"a": 1}, {"$set": {"a.b": 1}}),
        ({"a": None}, {"$set": {"a.b": 1}}),
        ({"a": "1"}, {"$inc": {"a": 1}}),
        ({"a": None}, {"$inc": {"a": 1}}),
        ({"a": True}, {"$inc": {"a": 1}}),
        ({"a": 1}, {"$addToSet": {"a": 1}}),
        ({"a": None}, {"$addToSet": {"a": 1}}),
    ],
)
def test_what_mongodb_cannot_do_to_a_value_is_an_error_of_the_store(
    document: dict[str, Any], update: dict[str, Any]
) -> None:
    with pytest.raises(StoreUnavailable):
        after(document, update)


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"a": 1},
        {"$push": {"a": 1}},
        {"$rename": {"a": "b"}},
        {"$setOnInsert": {"a": 1}},
        {"$set": {"_id": 1}},
        {"$set": {"_id.a": 1}},
        {"$unset": {"_id": ""}},
        {"$set": {"a.$": 1}},
        {"$set": {"a": 1}, "$inc": {"a": 1}},
        {"$set": {"a": 1, "a.b": 1}},
        {"$set": {"a.b": 1}, "$unset": {"a": ""}},
        {"$inc": {"a": "1"}},
        {"$inc": {"a": True}},
        {"$inc": {"a": None}},
        {"$min": {"a": [1]}},
        {"$max": {"a": {"b": 1}}},
        {"$max": {"a": b"x"}},
        {"$max": {"a": float("nan")}},
        {"$addToSet": {"a": {"$each": 1}}},
        {"$addToSet": {"a": {"$each": [1], "$slice": 1}}},
        {"$addToSet": {"a": {"$other": 1}}},
        {"$addToSet": {"a": float("nan")}},
        {"$currentDate": {"a": {"$type": "timestamp"}}},
        {"$currentDate": {"a": 1}},
    ],
)
def test_another_update_is_refused_before_any_document_is_changed(update: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError):
        check(update)


@pytest.mark.parametrize(
    ("document", "update"),
    [
        ({"a": [{"b": 1}]}, {"$set": {"a.0.b": 1}}),
        ({"a": [1]}, {"$unset": {"a.0": ""}}),
        ({"a": [1]}, {"$max": {"a": 1}}),
        ({"a": float("nan")}, {"$max": {"a": 1}}),
    ],
)
def test_values_that_have_no_path_or_order_here_are_refused(
    document: dict[str, Any], update: dict[str, Any]
) -> None:
    with pytest.raises(NotImplementedError):
        after(document, update)


@pytest.mark.parametrize(
    ("query", "update", "expected"),
    [
        ({"_id": 1}, {"$set": {"a": 1}}, {"_id": 1, "a": 1}),
        ({"_id": 1, "b": "x"}, {"$set": {"a": 1}}, {"_id": 1, "b": "x", "a": 1}),
        ({"_id": 1, "b": None}, {"$inc": {"a": 1}}, {"_id": 1, "b": None, "a": 1}),
        ({"_id": {"$eq": 1}, "b": {"$eq": 2}}, {"$set": {"a": 1}}, {"_id": 1, "b": 2, "a": 1}),
        ({"_id": 1, "b.c": 2}, {"$set": {"b.d": 1}}, {"_id": 1, "b": {"c": 2, "d": 1}}),
        ({"_id": 1, "b": 2}, {"$inc": {"b": 5}}, {"_id": 1, "b": 7}),
        ({"_id": 1, "b": {"$gt": 2}, "c": {"$ne": 3}}, {"$max": {"b": 1}}, {"_id": 1, "b": 1}),
        ({"_id": 1, "b": {"$exists": False}}, {"$set": {"a": 1}}, {"_id": 1, "a": 1}),
    ],
)
def test_an_upsert_begins_with_what_its_conditions_say_is_equal(
    query: dict[str, Any], update: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert upserted(conditions_of(query), update, NOW) == expected
