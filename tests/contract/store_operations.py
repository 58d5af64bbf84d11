"""Random documents, indexes and operations of the subset that adapters use, for `test_stores_agree`.

A field that an index has holds values of one kind; `mixed` and `any` hold every kind. What is left out, and
why: docs/storage.md, "Differences between the stores".
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from shared.storage.database import DeleteOne, UpdateOne
from shared.storage.indexes import Index

IDS = st.sampled_from([f"id{number}" for number in range(8)])
TEXTS = st.sampled_from(["", "a", "b", "B", "ä", "z\0", "\U0001f600", "10", "9"])
NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 10, 2**31, 2**63 - 1])
SMALL = st.integers(-3, 3)
TIMES = st.builds(
    lambda day, microsecond: (
        datetime(1969, 12, 31, tzinfo=UTC) + timedelta(days=day, microseconds=microsecond)
    ),
    st.integers(0, 3),
    st.sampled_from([0, 1, 999, 1000, 1999]),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), SMALL, st.sampled_from([0.5, -0.0, 1.0]), TEXTS, TIMES
)
ANY = st.recursive(
    SCALARS | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)
    ),
    max_leaves=4,
)
ODD = st.sampled_from([0.5, 1.0, ["a"], [1], {"x": 1}])
"""Values that no column of an index holds."""
TAGS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)

INDEXES: dict[str, tuple[tuple[tuple[tuple[str, int], ...], dict[str, bool]], ...]] = {
    "none": (),
    "plain": (((("n", 1),), {}), ((("at", 1),), {})),
    "compound": (((("s", 1), ("n", 1)), {}), ((("s", 1), ("at", -1)), {})),
    "sparse": (((("s", 1),), {"sparse": True}), ((("n", 1),), {"sparse": True})),
    "partial": (((("s", 1), ("n", 1)), {"partial": True}), ((("n", 1), ("s", 1)), {})),
    "unique": (((("name", 1),), {"unique": True}), ((("s", 1), ("n", 1)), {})),
    "unique sparse": (((("unique", 1),), {"unique": True, "sparse": True}),),
    "array": (((("tags", 1),), {"of_array": True}),),
    "array with _id": (((("tags", 1), ("_id", 1)), {"of_array": True}),),
    "dotted": (((("in.x", 1),), {}), ((("in.x", 1), ("n", 1)), {"sparse": True})),
    "texts": (((("s", 1), ("in.x", 1)), {"partial": True}),),
}


def indexes_of(kind: str, collection: str) -> list[Index]:
    return [Index(collection, keys, **options) for keys, options in INDEXES[kind]]


@dataclass(frozen=True, repr=False)
class Step:
    """One call of a collection."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    sorted_by: tuple[str, ...] = ()
    """What the results are in order of; the rest is compared as a set."""
    is_cut: bool = False
    """Only some of the match set come: which of equal ones is not said."""

    def __repr__(self) -> str:
        text = f"{self.method}{self.arguments}{self.options or ''}"
        return text if len(text) < 2000 else f"{text[:2000]}..."

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # hypothesis prints nothing that is very long


# --- documents

_FIELDS = {
    "name": st.sampled_from("abcdefgh"),
    "unique": st.sampled_from("abcdefgh"),
    "n": NUMBERS,
    "at": TIMES,
    "s": TEXTS,
    "tags": TAGS,
    "in": st.fixed_dictionaries({}, optional={"x": TEXTS, "y": SMALL}),
    "mixed": SCALARS,
    "count": SMALL,
    "any": ANY,
}
DOCUMENTS = st.fixed_dictionaries(
    {"_id": IDS, "name": _FIELDS["name"]},
    optional={name: values for name, values in _FIELDS.items() if name != "name"},
)

# --- conditions

_COMPARED = {
    "n": NUMBERS,
    "at": TIMES,
    "s": TEXTS,
    "in.x": TEXTS,
    "in.y": SMALL,
    "mixed": SCALARS,
    "count": SMALL,
    "unique": _FIELDS["unique"],
    "tags": st.sampled_from(["a", "b", "c"]),
}


def _range(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    operands = values.filter(lambda value: value is not None)
    return st.one_of(
        st.fixed_dictionaries(
            {}, optional={name: operands for name in ("$gt", "$gte", "$lt", "$lte")}
        ).filter(bool),
        st.fixed_dictionaries({"$gte": operands, "$lte": operands}),
    )


def _condition(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    nullable = values | st.none()
    return st.one_of(
        nullable,
        nullable,
        st.fixed_dictionaries({"$eq": values, "$gte": values.filter(lambda v: v is not None)}),
        st.fixed_dictionaries({"$ne": nullable}),
        st.fixed_dictionaries({"$in": st.lists(nullable, max_size=4)}),
        st.fixed_dictionaries({"$exists": st.booleans()}),
        _range(values),
    )


QUERIES = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={name: _condition(values) for name, values in _COMPARED.items()}
        | {"_id": st.one_of(IDS, _range(IDS), st.fixed_dictionaries({"$in": st.lists(IDS)}))}
        | {"any": st.one_of(ANY, ANY.map(lambda value: {"$ne": value}))},
    ).map(lambda query: dict(list(query.items())[:3])),
)
BY_ID = st.builds(lambda key, query: {**query, "_id": key}, IDS, QUERIES)


# --- updates

_SET = {
    "n": NUMBERS,
    "at": TIMES,
    "s": TEXTS,
    "tags": TAGS,
    "in": _FIELDS["in"],
    "in.x": TEXTS,
    "mixed": SCALARS,
    "any": ANY,
}
_OPERATORS = {
    "$set": st.fixed_dictionaries({}, optional=_SET),
    "$unset": st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("n", "at", "s", "in.x", "in.y", "any", "unique"), st.just(""))
    ),
    "$inc": st.fixed_dictionaries({}, optional={"count": SMALL, "in.y": SMALL}),
    "$min": st.fixed_dictionaries({}, optional={"mixed": SCALARS, "at": TIMES, "in.y": SMALL}),
    "$max": st.fixed_dictionaries({}, optional={"mixed": SCALARS, "at": TIMES, "s": TEXTS}),
    "$addToSet": st.fixed_dictionaries(
        {}, optional={"tags": st.one_of(TEXTS, TAGS.map(lambda tags: {"$each": tags}))}
    ),
    "$currentDate": st.fixed_dictionaries({}, optional={"now": st.just(True)}),
}


def _without_overlaps(update: dict[str, Any]) -> dict[str, Any]:
    """Two operators for one path are refused by both stores."""
    taken: set[str] = set()
    kept: dict[str, Any] = {}
    for operator, fields in update.items():
        mine = {}
        for path, operand in fields.items():
            around = {path, path.partition(".")[0]} | {each for each in taken if path + "." in each}
            if not around & taken:
                taken.add(path)
                mine[path] = operand
        if mine:
            kept[operator] = mine
    return kept or {"$set": {"mixed": 1}}


UPDATES = st.fixed_dictionaries({}, optional=_OPERATORS).map(_without_overlaps)
UNIQUE_CHANGES = st.fixed_dictionaries(
    {}, optional={"name": _FIELDS["name"], "unique": _FIELDS["unique"]}
).filter(bool)
ONE_UPDATES = UPDATES | UNIQUE_CHANGES.map(lambda fields: {"$set": fields})
UPSERTS = st.tuples(
    st.fixed_dictionaries({"_id": IDS}, optional={"s": TEXTS | st.none(), "n": NUMBERS}),
    st.fixed_dictionaries(
        {"$set": st.fixed_dictionaries({"name": _FIELDS["name"]}, optional={"at": TIMES})},
        optional={
            "$inc": st.fixed_dictionaries({"count": SMALL}),
            "$max": st.fixed_dictionaries({"mixed": SCALARS}),
            "$addToSet": st.fixed_dictionaries({"tags": TAGS.map(lambda tags: {"$each": tags})}),
        },
    ),
)

# --- reads

PROJECTIONS = st.one_of(
    st.none(),
    st.sampled_from(
        [
            *({"_id": 1}, {"n": 1, "s": 1}, {"in.x": 1}, {"in.x": 1, "in.y": 1}, {"mixed.x": 1}),
            *({"any": 0}, {"in": 0, "tags": 0}),
        ]
    ),
)


def _sorted_finds(kind: str) -> st.SearchStrategy[Step]:
    """In the order of `_id`, or along an index whose first fields have a condition."""
    by_id = st.builds(
        lambda query, direction, skip, limit, fields: Step(
            "find",
            (query, fields),
            {"sort": [("_id", direction)], "skip": skip, "limit": limit},
            ("_id",),
        ),
        *(QUERIES, st.sampled_from([1, -1]), st.integers(0, 2), st.integers(0, 4), PROJECTIONS),
    )
    along = [_along(keys, options) for keys, options in INDEXES[kind] if "of_array" not in options]
    return st.one_of(by_id, *along)


def _along(keys: tuple[tuple[str, int], ...], options: dict[str, bool]) -> st.SearchStrategy[Step]:
    nulls = st.nothing() if options else st.none()  # by null nobody looks in one with gaps
    paths = tuple(path for path, _ in keys)
    values = {path: _COMPARED.get(path, _FIELDS.get(path)) for path in paths}
    *fixed, last = paths

    def step(
        exact: list[Any], window: dict[str, Any], exchange: int, limit: int, is_short: bool
    ) -> Step:
        query = dict(zip(fixed, exact, strict=True)) | {last: window}
        order = [(path, direction * exchange) for path, direction in keys]
        order, by = (order[-1:], (last,)) if is_short else (order, paths)
        return Step("find", (query, None), {"sort": order, "limit": limit}, by, limit > 0)

    return st.builds(
        step,
        st.tuples(*(_one_or_some(values[path], nulls) for path in fixed)),
        _range(values[last]),
        st.sampled_from([1, -1]),
        st.integers(0, 4),
        st.booleans(),
    )


def _one_or_some(
    values: st.SearchStrategy[Any], nulls: st.SearchStrategy[None]
) -> st.SearchStrategy[Any]:
    some = st.lists(values | nulls, min_size=1, max_size=3)
    return values | some.map(lambda listed: {"$in": listed})


def _listed_finds(kind: str) -> list[st.SearchStrategy[Step]]:
    """By a list for each field of an index of two. What no column holds may be in the second one, unless an
    index begins with that field."""
    begun = {keys[0][0] for keys, _ in INDEXES[kind]}
    found = []
    for keys, options in INDEXES[kind]:
        if len(keys) == 2 and "of_array" not in options:
            (first, _), (second, _) = keys
            values = _COMPARED[second] if second in begun else _COMPARED[second] | ODD
            found.append(st.builds(Step, st.just("find"), _lists(first, second, values)))
    return found


def _lists(
    first: str, second: str, values: st.SearchStrategy[Any]
) -> st.SearchStrategy[tuple[dict[str, Any]]]:
    lists = st.tuples(st.lists(_COMPARED[first], max_size=3), st.lists(values, max_size=3))
    return lists.map(lambda of: ({first: {"$in": of[0]}, second: {"$in": of[1]}},))


def _bulk(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.lists(one, max_size=5).map(lambda operations: Step("bulk_write", (operations,)))


_UPSERTING = UPSERTS.map(lambda each: UpdateOne(*each, upsert=True))
WRITES = st.one_of(
    st.lists(DOCUMENTS, max_size=6).map(lambda documents: Step("insert_many", (documents,))),
    DOCUMENTS.map(lambda document: Step("insert_one", (document,))),
    st.builds(lambda query, update: Step("update_one", (query, update)), BY_ID, ONE_UPDATES),
    st.builds(lambda query, update: Step("update_many", (query, update)), QUERIES, UPDATES),
    UPSERTS.map(lambda each: Step("update_one", each, {"upsert": True})),
    # Of updates or of deletions: the driver does all updates of a bulk before its deletions.
    _bulk(st.builds(UpdateOne, BY_ID, ONE_UPDATES) | _UPSERTING),
    _bulk(st.builds(DeleteOne, BY_ID)),
    BY_ID.map(lambda query: Step("delete_one", (query,))),
    QUERIES.map(lambda query: Step("delete_many", (query,))),
)


def steps(kind: str) -> st.SearchStrategy[list[Step]]:
    finds = st.builds(lambda query, fields: Step("find", (query, fields)), QUERIES, PROJECTIONS)
    scans = st.builds(lambda query, fields: Step("scan", (query, fields)), QUERIES, PROJECTIONS)
    reads = st.one_of(finds, finds, _sorted_finds(kind), *_listed_finds(kind), scans)
    return st.lists(st.one_of(WRITES, reads), min_size=2, max_size=12)
