"""Every single fault of every command is found and named; several at once are all named."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.apple.request.read_json import parse_json
from shared.apple.values.containers import Array, Dictionary
from shared.apple.values.reading import MAX_FAULTS
from tests.support.command_faults import Site, faults_of, full, sites
from tests.support.command_requests import CATALOGUE, FORMS, command_of, paths, prepare, refused
from tests.support.command_strategies import wrong_for

by_command = pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))


@by_command
def test_a_request_with_every_key_is_taken_and_every_key_is_sent(form: Dictionary) -> None:
    sent = command_of(prepare(parse_json(json.dumps(full(form)).encode())))
    assert sent.keys() == {"RequestType"} | {key.name for key in form.keys}


@by_command
def test_every_single_fault_is_found_and_nothing_else(form: Dictionary) -> None:
    for injected in faults_of(form):
        refusal = refused(injected.request)
        assert paths(refusal) == [injected.path], injected.what
        assert injected.path in str(refusal)
        assert refusal.faults[0].expected


def test_there_are_faults_at_every_depth() -> None:
    injected = [fault for form in FORMS for fault in faults_of(form)]
    assert len(injected) > 900
    assert any(fault.path.count(".") >= 2 for fault in injected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_several_faults_are_all_found(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(FORMS))
    chosen: list[Site] = []
    # By their numbers, since a site with a union of values has no hash.
    found = sites(form)
    numbers = st.lists(st.sampled_from(range(len(found))), max_size=6, unique=True)
    for site in [found[number] for number in data.draw(numbers)]:
        if not any(_is_inside(site, other) or _is_inside(other, site) for other in chosen):
            chosen.append(site)
    request = full(form)
    for site in chosen:
        inside: Any = request
        for step in site.steps[:-1]:
            inside = inside[step]
        inside[site.steps[-1]] = wrong_for(site.value)
    # A wrong discriminator hides what else is wrong beside it: nobody knows what is expected there.
    hidden = [site for site in chosen if any(_hides(other, site) for other in chosen)]
    expected = {site.path for site in chosen if site not in hidden}
    if expected:
        assert set(paths(refused(request))) == expected


def _is_inside(site: Site, other: Site) -> bool:
    return site.steps[: len(other.steps)] == other.steps


def _hides(other: Site, site: Site) -> bool:
    is_by = other.key is not None and other.key.name == "Item" and other is not site
    return is_by and site.steps[: len(other.steps) - 1] == other.steps[:-1]


@by_command
def test_many_faults_are_told_up_to_the_limit(form: Dictionary) -> None:
    lists = [site for site in sites(form) if isinstance(site.value, Array) and len(site.steps) == 1]
    for site in lists:
        request = copy.deepcopy(full(form))
        request[site.steps[0]] = [None] * 200  # type: ignore[index]  # a name at the top
        assert len(refused(request).faults) == MAX_FAULTS
