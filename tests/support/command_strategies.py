"""Requests and the commands they must become, drawn from the catalogue itself.

A drawn value is a pair: what a client writes in JSON, and what the property list must hold.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from shared.apple.values.containers import Anything, Array, Dictionary, FreeDictionary, Key, Union
from shared.apple.values.scalars import Boolean, Data, Date, Integer, Real, Text, Value

UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"

plain_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"))
    | st.sampled_from("\t\n\r&<>\"']]>"),
    max_size=12,
)
integers = st.integers(-(2**63), 2**63 - 1)
free_leaves = (
    plain_text | integers | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
)
free_trees = st.recursive(
    free_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=6,
)


def _same(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return values.map(lambda value: (value, value))


booleans = _same(st.booleans())
data = st.binary(max_size=20).map(lambda raw: (base64.b64encode(raw).decode(), raw))


def pairs(value: Value, spelling: str = "any") -> st.SearchStrategy[tuple[Any, Any]]:
    match value:
        case Text():
            return _same(st.sampled_from(value.allowed) if value.allowed else plain_text)
        case Integer():
            return _same(st.sampled_from(value.allowed) if value.allowed else integers)
        case Boolean() | Data():
            return booleans if isinstance(value, Boolean) else data
        case Array():
            return st.lists(pairs(value.item, spelling), max_size=3).map(
                lambda drawn: ([pair[0] for pair in drawn], [pair[1] for pair in drawn])
            )
        case Dictionary():
            return keyed(value.keys, spelling=spelling)
        case Union():
            return st.one_of([keyed(form.keys, spelling=spelling) for form in value.forms.values()])
        case FreeDictionary():
            return _same(st.dictionaries(plain_text, free_trees, max_size=3))
    raise AssertionError(f"no strategy for {type(value).__name__}")


@st.composite
def keyed(
    draw: st.DrawFn, keys: Iterable[Key], optional: bool | None = None, spelling: str = "any"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dictionary; `optional`: all optional keys, none, or any of them; in any order.

    `spelling`: any, that of our answers ("json"), or Apple's own ("apple").
    """
    chosen = [key for key in keys if key.required or _wanted(draw, optional)]
    request: dict[str, Any] = {}
    plist: dict[str, Any] = {}
    for key in draw(st.permutations(chosen)):
        spellings = {"apple": [key.name], "json": [key.json]}.get(
            spelling, [key.json, key.name, key.name.lower()]
        )
        name = draw(st.sampled_from(spellings))
        request[name], plist[key.name] = draw(pairs(key.value, spelling))
    return request, plist


def _wanted(draw: st.DrawFn, optional: bool | None) -> bool:
    return draw(st.booleans()) if optional is None else optional


def request_of(form: Dictionary, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {"udid": UDID, "request_type": form.name, **keys}


def wrong_for(value: Value) -> object:
    """A value that no client may send for this key."""
    match value:
        case Text() | Data() | Date():
            return True
        case Integer() | Boolean() | Real():
            return "five"
        case Anything():
            return "\x00"
    return 5
