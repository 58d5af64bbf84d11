"""Conditions on one document mean what MongoDB's manual says ("Query and Projection Operators")."""

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest
from bson import Int64, ObjectId

from shared.storage.sqlite.query.filters import conditions_of, matches, projection_of

NOON = datetime(2026, 5, 1, 12, 0, 0, 123_000, UTC)
MOMENT = timedelta(milliseconds=1)


class Colour(StrEnum):
    RED = "red"


def holds(document: dict[str, Any], query: dict[str, Any]) -> bool:
    return matches(document, conditions_of(query))


@pytest.mark.parametrize(
    ("document", "query"),
    [
        # null is the same as missing, for equality only
        ({}, {"a": None}),
        ({"a": None}, {"a": None}),
        ({}, {"a": {"$eq": None}}),
        ({}, {"a": {"$in": [None, 1]}}),
        ({"a": None}, {"a": {"$in": [1, None]}}),
        ({}, {"a": {"$ne": 1}}),
        ({"a": None}, {"a": {"$exists": True}}),
        ({}, {"a": {"$exists": False}}),
        ({"b": 1}, {"a.b": None}),
        ({"a": 1}, {"a.b": None}),
        # an array by any of its elements, and as a whole
        ({"a": [1, 2]}, {"a": 2}),
        ({"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": [[1, 2]]}, {"a": [1, 2]}),
        ({"a": [1, None]}, {"a": None}),
        ({"a": [1, 2]}, {"a": {"$in": [2, 3]}}),
        ({"a": [1, 2]}, {"a": {"$ne": 3}}),
        ({"a": []}, {"a": {"$ne": None}}),
        ({"a": [1, 9]}, {"a": {"$gt": 5}}),
        ({"a": [1, 9]}, {"a": {"$gt": 5, "$lt": 3}}),  # each by another element
        # numbers by their value
        ({"a": 1}, {"a": 1.0}),
        ({"a": Int64(5)}, {"a": 5}),
        ({"a": 2**63 - 1}, {"a": {"$gt": 2**63 - 2}}),
        ({"a": -0.0}, {"a": 0}),
        ({"a": 0}, {"a": {"$gte": -0.0}}),
        # several operators in one condition
        ({"a": "b"}, {"a": {"$eq": "b", "$gte": "a"}}),
        ({"_id": "b"}, {"_id": {"$gt": "a", "$lte": "b"}}),
        # documents as a whole
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {}}, {"a": {}}),
        ({"a": {"b": {"c": 1}}}, {"a.b.c": 1}),
        # kinds
        ({"a": "red"}, {"a": Colour.RED}),
        ({"a": "red"}, {"a": {"$in": [Colour.RED]}}),
        ({"a": False}, {"a": {"$lt": True}}),
        ({"a": b"x"}, {"a": b"x"}),
        # times are cut to milliseconds, whatever their zone
        ({"a": NOON}, {"a": NOON + MOMENT / 2}),
        ({"a": NOON}, {"a": {"$lte": NOON.astimezone(timezone(timedelta(hours=2)))}}),
        ({"a": NOON}, {"a": NOON.replace(tzinfo=None)}),
        # everything
        ({"a": 1}, {}),
    ],
)
def test_a_document_matches(document: dict[str, Any], query: dict[str, Any]) -> None:
    assert holds(document, query)


@pytest.mark.parametrize(
    ("document", "query"),
    [
        # an order holds only within one kind
        ({}, {"a": {"$lt": 1}}),
        ({}, {"a": {"$gte": "a"}}),
        ({"a": None}, {"a": {"$lte": 1}}),
        ({"a": "5"}, {"a": {"$gt": 1}}),
        ({"a": 5}, {"a": {"$lt": "z"}}),
        ({"a": NOON}, {"a": {"$gt": 0}}),
        ({"a": True}, {"a": {"$gte": 0}}),
        ({"a": {"b": 1}}, {"a": {"$gte": 0}}),
        # a truth value is no number
        ({"a": True}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": False}, {"a": {"$in": [0]}}),
        ({"a": "1"}, {"a": 1}),
        ({"a": b"x"}, {"a": "x"}),
        # null and missing
        ({}, {"a": {"$ne": None}}),
        ({"a": None}, {"a": {"$ne": None}}),
        ({"a": 0}, {"a": None}),
        ({"a": ""}, {"a": None}),
        ({"a": []}, {"a": None}),
        ({"a": None}, {"a": {"$exists": False}}),
        ({}, {"a": {"$in": []}}),
        ({"a": 1}, {"a": {"$in": []}}),
        # arrays
        ({"a": [1, 2]}, {"a": {"$ne": 2}}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": []}, {"a": {"$gt": 0}}),
        # documents are equal with the order of their fields
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}),
        ({"a": {"x": True}}, {"a": {"x": 1}}),
        # NaN is in no order to another number
        ({"a": float("nan")}, {"a": {"$lte": 1}}),
        ({"a": float("nan")}, {"a": {"$gte": 1}}),
        # all conditions of several
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}),
        ({"a": "b"}, {"a": {"$eq": "b", "$gt": "b"}}),
        ({"a": NOON}, {"a": {"$lt": NOON + MOMENT / 2}}),
    ],
)
def test_a_document_does_not_match(document: dict[str, Any], query: dict[str, Any]) -> None:
    assert not holds(document, query)


@pytest.mark.parametrize(
    "query",
    [
        {"$or": [{"a": 1}]},
        {"$expr": {}},
        {"a": {"$nin": [1]}},
        {"a": {"$regex": "x"}},
        {"a": {"$not": {"$gt": 1}}},
        {"a": {"$elemMatch": {"b": 1}}},
        {"a": {"$gt": 1, "b": 2}},
        {"a": re.compile("x")},
        {"a": {"$in": [re.compile("x")]}},
        {"a": {"$in": "text"}},
        {"a": {"$in": {"a": 1}}},
        {"a": {"$in": {1, 2}}},
        {"a": {"$exists": 1}},
        {"a": {"$gt": None}},
        {"a": {"$gte": [1]}},
        {"a": {"$lt": {"b": 1}}},
        {"a": {"$lte": b"x"}},
        {"a": float("nan")},
        {"a": {"$lt": float("nan")}},
        {"a": {"$in": [1, [float("nan")]]}},
        {"a": ObjectId()},
        {"a": {"b": ObjectId()}},
    ],
)
def test_another_condition_is_refused_before_any_document_is_looked_at(
    query: dict[str, Any],
) -> None:
    with pytest.raises(NotImplementedError):
        conditions_of(query)


def test_a_path_through_an_array_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        holds({"a": [{"b": 1}]}, {"a.b": 1})


# --- fields to show

WHOLE = {"_id": 1, "a": {"b": 1, "c": 2}, "d": [1], "e": 3}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"e": 1}, {"_id": 1, "e": 3}),
        ({"_id": 1}, {"_id": 1}),
        ({"e": True, "d": 1}, {"_id": 1, "e": 3, "d": [1]}),
        ({"missing": 1}, {"_id": 1}),
        ({"a.b": 1}, {"_id": 1, "a": {"b": 1}}),
        ({"a.b": 1, "a.c": 1}, {"_id": 1, "a": {"b": 1, "c": 2}}),
        ({"a.missing": 1}, {"_id": 1, "a": {}}),
        ({"e.b": 1}, {"_id": 1}),
        ({"missing.b": 1}, {"_id": 1}),
        ({"e": 0}, {"_id": 1, "a": {"b": 1, "c": 2}, "d": [1]}),
        ({"a": 0, "d": 0, "missing": 0}, {"_id": 1, "e": 3}),
    ],
)
def test_fields_are_shown_or_left_out(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    before = {**WHOLE}

    assert projection_of(fields)(WHOLE) == expected
    assert before == WHOLE


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"a": 1, "e": 0},
        {"_id": 0},
        {"_id": 0, "a": 1},
        {"a.b": 0},
        {"a": 1, "a.b": 1},
        {"a": "$e"},
        {"d": {"$slice": 1}},
        {"d.$": 1},
    ],
)
def test_other_projections_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError):
        projection_of(fields)


def test_fields_inside_an_array_are_refused() -> None:
    with pytest.raises(NotImplementedError):
        projection_of({"a.b": 1})({"_id": 1, "a": [{"b": 1}]})
