"""Every single fault that a request can have, made from the catalogue: for tests.

`full` is a request with every key of a command, at every depth; `faults_of` changes one thing in it at a
time, and says which path must be named.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shared.apple.values.containers import Anything, Array, Dictionary, FreeDictionary, Key, Union
from shared.apple.values.scalars import Boolean, Data, Date, Integer, Real, Text, Value
from tests.support.command_strategies import UDID, wrong_for

Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Site:
    """One value of a request: the way to it, and what is read there."""

    steps: Steps
    value: Value
    key: Key | None

    @property
    def path(self) -> str:
        return path_of(self.steps)


@dataclass(frozen=True)
class Injected:
    """A request with one thing wrong in it, and the path that must be named."""

    what: str
    path: str
    request: dict[str, Any]


def path_of(steps: Steps) -> str:
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def full(form: Dictionary) -> dict[str, Any]:
    keys: dict[str, Any] = sample(form)
    return {"udid": UDID, "request_type": form.name, **keys}


def sample(value: Value) -> Any:
    """A value that is taken, with everything in it that can be."""
    match value:
        case Dictionary():
            return {key.json: sample(key.value) for key in value.keys}
        case Array(item=Union() as union):
            return [sample(form) for form in union.forms.values()]
        case Array():
            return [sample(value.item)] * max(1, value.at_least)
        case Text() | Integer() if value.allowed:
            return value.allowed[-1]
    return {Text: "a", Integer: 1, Real: 0.5, Boolean: False, Data: "eA==", Date: NOW}.get(
        type(value), {"a": [1]}
    )


NOW = "2024-10-21T07:00:00Z"


def sites(form: Dictionary) -> list[Site]:
    """Every entry of the full request."""
    return [site for key in form.keys for site in _sites(key.value, (key.json,), key)]


def _sites(value: Value, steps: Steps, key: Key | None) -> Iterator[Site]:
    yield Site(steps, value, key)
    match value:
        case Dictionary():
            for inner in value.keys:
                yield from _sites(inner.value, (*steps, inner.json), inner)
        case Array(item=Union() as union):
            for index, form in enumerate(union.forms.values()):
                yield Site((*steps, index), form, None)
                for inner in form.keys:
                    if inner.name != union.by.name:
                        yield from _sites(inner.value, (*steps, index, inner.json), inner)
                by = Text(tuple(union.forms))
                yield Site((*steps, index, union.by.json), by, union.by)
        case Array():
            yield from _sites(value.item, (*steps, 0), None)


def faults_of(form: Dictionary) -> Iterator[Injected]:
    request = full(form)
    for site in sites(form):
        for what, change in _changes(site):
            changed = copy.deepcopy(request)
            inside: Any = changed
            for step in site.steps[:-1]:
                inside = inside[step]
            yield Injected(what, change(inside, site), changed)


Change = Callable[[Any, Site], str]


def _changes(site: Site) -> Iterator[tuple[str, Change]]:
    if not isinstance(site.value, Anything):
        yield "a wrong type", _put(wrong_for(site.value))
    if site.key is not None:
        yield "an unknown key beside it", _beside
        if site.key.required:
            yield "not there", _remove
            yield "null", _put(None)
    yield from _changes_of_value(site.value)


def _changes_of_value(value: Value) -> Iterator[tuple[str, Change]]:
    match value:
        case Text(allowed=allowed):
            yield "a control character", _put("a\x00")
            if allowed:
                yield "another value", _put("no such value")
        case Integer():
            yield "too large", _put(2**63)
            yield "a fraction", _put(1.0)
        case Data():
            yield "no base64", _put("%%%")
        case FreeDictionary():
            yield "a surrogate inside", _put({"a": "\ud800"})


def _put(wrong: object) -> Change:
    def change(inside: Any, site: Site) -> str:
        inside[site.steps[-1]] = wrong
        return site.path + (".a" if isinstance(wrong, dict) else "")

    return change


def _remove(inside: Any, site: Site) -> str:
    del inside[site.steps[-1]]
    return site.path


def _beside(inside: Any, site: Site) -> str:
    inside["no_such_key"] = 1
    return path_of((*site.steps[:-1], "no_such_key"))
