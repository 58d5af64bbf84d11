"""Operations on more documents, and longer lists, than a store reads or writes at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from shared.storage.database import DeleteOne, Document, UpdateOne
from tests.contract.store_operations import UPDATES, Step

COUNT = 600
NOON = datetime(1970, 1, 1, 12, tzinfo=UTC)
IDS = [f"many{number:03d}" for number in range(COUNT)]
SERIALS = [f"serial{number}" for number in range(COUNT)]


def documents() -> list[Document]:
    return [
        {
            "_id": IDS[number],
            "name": IDS[number],
            "unique": IDS[number],
            "n": number % 7,
            "at": NOON + timedelta(milliseconds=number // 2),
            "s": "abc"[number % 3],
            "tags": ["a", SERIALS[number]],
            "in": {"x": "xyz"[number % 3], "y": number},
            "mixed": [number, str(number), None, number % 2 == 0][number % 4],
            "count": number,
        }
        for number in range(COUNT)
    ]


def _span(values: list[str]) -> st.SearchStrategy[list[str]]:
    """A long list, some of it twice, some of it unknown."""
    ends = st.tuples(st.integers(0, 150), st.integers(0, 200), st.integers(0, 5))
    return ends.map(
        lambda of: [*values[of[0] : of[0] + of[1]], *values[: of[2]], "unknown"][
            :: -1 if of[2] else 1
        ]
    )


_LETTERS = st.sampled_from(["a", "b", "c"])
QUERIES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"_id": _span(IDS).map(lambda ids: {"$in": ids})}, optional={"s": _LETTERS}),
    st.fixed_dictionaries({"tags": _span(SERIALS).map(lambda tags: {"$in": ["a", *tags]})}),
    st.fixed_dictionaries({"tags": _span(SERIALS).map(lambda tags: {"$in": tags})}),
    st.fixed_dictionaries({"s": _span(IDS).map(lambda texts: {"$in": [*texts, "b", "c"]})}),
    st.fixed_dictionaries(
        {"s": st.just({"$in": ["a", "b"]}), "in.x": _span(IDS).map(lambda texts: {"$in": ["x", *texts]})}
    ),
    st.fixed_dictionaries({"n": st.integers(0, 7)}, optional={"count": st.just({"$gt": 150})}),
    st.fixed_dictionaries({"s": _LETTERS, "n": st.just({"$gte": 2, "$lte": 5})}),
    st.fixed_dictionaries({"in.x": st.sampled_from("xyz")}),
    st.fixed_dictionaries({"tags": st.just("a")}),
    st.fixed_dictionaries({"at": st.just({"$gte": NOON, "$lt": NOON + timedelta(milliseconds=140)})}),
    st.just({}),
)  # fmt: skip
_PAGES = st.tuples(
    st.sampled_from([1, -1]), st.integers(0, 140), st.sampled_from([0, 1, 63, 129, 200])
)


def _page(query: dict[str, Any], page: tuple[int, int, int]) -> Step:
    options = {"sort": [("_id", page[0])], "skip": page[1], "limit": page[2]}
    return Step("find", (query, {"n": 1, "in.y": 1}), options, ("_id",))


STEPS = st.lists(
    st.one_of(
        QUERIES.map(lambda query: Step("find", (query, {"tags": 0}))),
        st.builds(_page, QUERIES, _PAGES),
        QUERIES.map(lambda query: Step("scan", (query, None))),
        st.builds(lambda query, update: Step("update_many", (query, update)), QUERIES, UPDATES),
        QUERIES.map(lambda query: Step("delete_many", ({**query, "count": {"$lt": 100}},))),
        _span(IDS).map(
            lambda ids: Step(
                "bulk_write", ([UpdateOne({"_id": each}, {"$inc": {"count": 1}}) for each in ids],)
            )
        ),
        _span(IDS).map(
            lambda ids: Step("bulk_write", ([DeleteOne({"_id": each, "s": "a"}) for each in ids],))
        ),
        st.just(Step("insert_many", (documents(),))),
    ),
    min_size=3,
    max_size=6,
).map(lambda steps: [Step("insert_many", (documents(),)), *steps])
