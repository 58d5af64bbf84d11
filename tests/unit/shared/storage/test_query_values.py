"""Values compare and sort as MongoDB's manual says ("BSON Comparison Order")."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest
from bson import Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from shared.storage.sqlite.engine.documents import decoded, encoded
from shared.storage.sqlite.query.values import MISSING, as_stored, column_value, equal, rank

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Colour(StrEnum):
    RED = "red"


def test_kinds_sort_in_mongodb_s_order() -> None:
    values = [NOON, True, "b", 2, None, False, "a", -1, 0.5, NOON - timedelta(days=1), ""]

    assert sorted(values, key=rank) == [
        *(None, -1, 0.5, 2),
        *("", "a", "b"),
        *(False, True),
        *(NOON - timedelta(days=1), NOON),
    ]


@pytest.mark.parametrize("value", [{}, [], b"x", float("nan"), ObjectId(), MISSING])
def test_what_is_not_sorted_here_is_refused(value: Any) -> None:
    with pytest.raises(NotImplementedError):
        rank(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (0, False), (0, None), ("", None), ("x", b"x"), ([], {}), ([1, 2], [2, 1])],
)
def test_values_of_different_kinds_or_orders_differ(one: Any, other: Any) -> None:
    assert not equal(one, other)
    assert not equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (0.0, -0.0), (Int64(7), 7), (Colour.RED, "red"), ([1, [None]], [1.0, [None]])],
)
def test_values_are_equal_whatever_type_python_has_for_them(one: Any, other: Any) -> None:
    assert equal(one, other)
    assert equal(other, one)


TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=5) | TIMES
    | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["x", "y", "$z"]), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip


@given(VALUES)
def test_a_value_is_compared_as_it_comes_back_from_the_store(value: Any) -> None:
    [read] = decoded(encoded({"value": value})).values()

    assert equal(as_stored(value), read)
    assert as_stored(value) == read


@given(TIMES, TIMES)
def test_columns_order_times_as_their_documents_do(one: datetime, other: datetime) -> None:
    stored, before = as_stored(one), as_stored(other)

    assert column_value(one) == column_value(stored)
    assert (column_value(one) < column_value(other)) is (stored < before)


@pytest.mark.parametrize("value", [1.5, 2**63, [1], {"a": 1}, ObjectId()])
def test_a_column_holds_no_value_that_it_would_sort_otherwise(value: Any) -> None:
    with pytest.raises(NotImplementedError):
        column_value(value)
