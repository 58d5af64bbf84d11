"""Properties of all commands, drawn from the catalogue itself."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.apple.request.read_json import parse_json
from shared.apple.values.containers import Dictionary
from shared.apple.values.scalars import Integer, Text
from tests.support.command_requests import (
    CATALOGUE,
    FORMS,
    command_of,
    lock,
    paths,
    prepare,
    refused,
    with_types,
)
from tests.support.command_strategies import UDID, keyed, request_of, wrong_for

bounded = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
@pytest.mark.parametrize("optional", [False, True, None], ids=["minimal", "full", "any"])
@bounded
@given(data=st.data())
def test_what_is_given_is_sent_no_more_and_no_less(
    form: Dictionary, optional: bool | None, data: st.DataObject
) -> None:
    keys, expected = data.draw(keyed(form.keys, optional=optional))
    prepared = prepare(parse_json(json.dumps(request_of(form, keys)).encode()))
    wanted = {"RequestType": form.name, **expected}
    assert with_types(command_of(prepared)) == with_types(wanted)


@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
@bounded
@given(data=st.data())
def test_apples_own_form_is_the_same_command(form: Dictionary, data: st.DataObject) -> None:
    keys, expected = data.draw(keyed(form.keys, spelling="apple"))
    apple = {"udid": UDID, "Command": {"RequestType": form.name, **keys}}
    wanted = {"RequestType": form.name, **expected}
    assert with_types(command_of(prepare(apple))) == with_types(wanted)


@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
@bounded
@given(data=st.data())
def test_every_wrong_type_is_found_and_named(form: Dictionary, data: st.DataObject) -> None:
    keys, _ = data.draw(keyed(form.keys, optional=False))
    victim = data.draw(st.sampled_from(form.keys))
    keys = {name: v for name, v in keys.items() if form.find(name) is not victim}
    refusal = refused(request_of(form, keys | {victim.json: wrong_for(victim.value)}))
    assert paths(refusal) == [victim.json]


@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
@bounded
@given(data=st.data())
def test_every_missing_required_key_is_found_and_named(
    form: Dictionary, data: st.DataObject
) -> None:
    keys, _ = data.draw(keyed(form.keys, optional=False))
    missing = sorted(key.json for key in form.keys if key.required)
    nulls = {name: None for name in keys} if data.draw(st.booleans()) else {}
    if missing:
        assert sorted(paths(refused(request_of(form, nulls)))) == missing
    else:
        assert command_of(prepare(request_of(form, nulls))) == {"RequestType": form.name}


@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
def test_every_value_outside_a_closed_list_is_found_and_named(form: Dictionary) -> None:
    for key in form.keys:
        if isinstance(key.value, Text | Integer) and key.value.allowed:
            wrong = "no such value" if isinstance(key.value, Text) else 987
            refusal = refused(request_of(form, {key.json: wrong}))
            [fault] = [fault for fault in refusal.faults if fault.path == key.json]
            assert fault.expected.startswith("one of ")


@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
def test_an_unknown_key_is_refused_and_the_raw_route_is_named(form: Dictionary) -> None:
    refusal = refused(request_of(form, {"no_such_key": 1}))
    assert "no_such_key" in paths(refusal)
    assert "POST /v1/commands/{udid}" in str(refusal)


@bounded
@given(data=st.data())
def test_all_faults_are_told_at_once(data: st.DataObject) -> None:
    names = ["udid", "pin", "message", "phone_number", "pni"]
    wrong = data.draw(st.sets(st.sampled_from(names), min_size=2))
    refusal = refused(lock() | {name: 5 for name in wrong})
    assert sorted(paths(refusal)) == sorted(wrong)


@bounded
@given(data=st.data())
def test_equal_requests_are_equal_bytes_whatever_their_order(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(FORMS))
    keys, _ = data.draw(keyed(form.keys))
    shuffled = dict(data.draw(st.permutations(list(keys.items()))))
    first, second = prepare(request_of(form, keys)), prepare(request_of(form, shuffled))
    assert first.command.hash == second.command.hash
