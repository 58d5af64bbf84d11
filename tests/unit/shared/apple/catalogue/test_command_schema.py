"""OpenAPI shows the commands as they are read."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shared.apple.catalogue.schema import command_schema
from shared.apple.request.read_json import parse_json
from shared.apple.values.containers import Dictionary
from tests.support.command_requests import CATALOGUE, FORMS, prepare
from tests.support.command_strategies import UDID, keyed, request_of, wrong_for
from tests.unit.shared.apple.catalogue.test_command_examples import EXAMPLES

SCHEMA: Any = CATALOGUE.openapi_schema()
COMPONENTS: dict[str, Any] = SCHEMA["x-components"]
DOCUMENT = {**SCHEMA, "components": {"schemas": COMPONENTS}}
by_command = pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))


def of(request_type: str) -> dict[str, Any]:
    found: dict[str, Any] = COMPONENTS[SCHEMA["discriminator"]["mapping"][request_type][21:]]
    return found


VALIDATORS = {
    form.name: Draft202012Validator({**of(form.name), "components": {"schemas": COMPONENTS}})
    for form in FORMS
}


def test_openapi_shows_all_commands_told_apart_by_their_type() -> None:
    mapping = SCHEMA["discriminator"]["mapping"]
    assert tuple(mapping) == tuple(CATALOGUE.forms)
    assert [one["$ref"] for one in SCHEMA["oneOf"]] == list(mapping.values())


@by_command
def test_every_example_is_one_that_is_taken(form: Dictionary) -> None:
    example = of(form.name)["example"]
    prepared = prepare(parse_json(json.dumps(example).encode()))
    assert prepared.command.request_type == form.name
    VALIDATORS[form.name].validate(example)


@by_command
def test_every_key_has_the_name_that_answers_have(form: Dictionary) -> None:
    shown = of(form.name)
    own = {key.json for key in form.keys}
    beside = {"request_type", "udid", "udids", "command_uuid"}
    beside |= {"priority", "expires_at", "ttl", "not_before", "collapse_key", "supersede"}
    assert shown["properties"].keys() == own | beside
    assert set(shown["required"]) == {"request_type"} | {
        key.json for key in form.keys if key.required
    }


@by_command
def test_the_schemas_are_schemas_and_whole_without_the_document_too(form: Dictionary) -> None:
    Draft202012Validator.check_schema(of(form.name))
    alone = command_schema(form)
    assert list(references(alone)) == []
    Draft202012Validator(alone).validate(alone["example"])


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_every_reference_leads_to_a_component() -> None:
    known = {f"#/components/schemas/{name}" for name in COMPONENTS}
    assert set(references(DOCUMENT)) <= known


@by_command
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_taken_in_the_preferred_spelling_fits_the_schema(
    form: Dictionary, data: st.DataObject
) -> None:
    keys, _ = data.draw(keyed(form.keys, spelling="json"))
    VALIDATORS[form.name].validate(request_of(form, keys))


@by_command
def test_a_wrong_type_does_not_fit_the_schema(form: Dictionary) -> None:
    validator = VALIDATORS[form.name]
    for key in form.keys:
        wrong = request_of(form, {key.json: wrong_for(key.value)})
        assert [e for e in validator.iter_errors(wrong) if list(e.absolute_path) == [key.json]]


ACCEPTED = [
    example
    for example in EXAMPLES
    if example["expect"]["outcome"] == "accept" and isinstance(example.get("request"), dict)
]


def preferred(request: dict[str, Any]) -> dict[str, Any]:
    """The request as answers show it: in the preferred names."""
    prepared = prepare(request)
    command = prepared.response["command"]
    assert isinstance(command, dict)
    return {"udid": prepared.target, **command}


@pytest.mark.parametrize("example", ACCEPTED, ids=[example["name"] for example in ACCEPTED])
def test_every_accepted_example_fits_the_schema(example: dict[str, Any]) -> None:
    request = preferred(parse_json(json.dumps(example["request"]).encode()))
    VALIDATORS[request["request_type"]].validate(request)


@pytest.mark.parametrize(
    ("beside", "fits"),
    [
        ({}, True),
        ({"udids": ["a"]}, False),
        ({"priority": 9, "ttl": 1.5, "collapse_key": "a"}, True),
        ({"supersede": True}, True),
        ({"supersede": "true"}, False),
        ({"priority": 10}, False),
        ({"ttl": 0}, False),
    ],
)
def test_the_envelope_is_described(beside: dict[str, Any], fits: bool) -> None:
    request = {"udid": UDID, "request_type": "ProfileList", **beside}
    assert VALIDATORS["ProfileList"].is_valid(request) is fits


@pytest.mark.parametrize(
    ("targets", "fits"),
    [
        ({}, False),
        ({"udid": "a"}, True),
        ({"udids": ["a"]}, True),
        ({"udid": "a", "udids": []}, False),
    ],
)
def test_a_request_names_its_targets_in_one_way(targets: dict[str, Any], fits: bool) -> None:
    assert VALIDATORS["ProfileList"].is_valid({"request_type": "ProfileList", **targets}) is fits


@by_command
def test_generators_of_clients_make_a_model_of_each_command(form: Dictionary) -> None:
    """They drop a schema that has alternatives beside properties, or an enum of more than one type."""
    for schema in schemas(of(form.name)):
        assert not ({"oneOf", "anyOf"} & schema.keys() and "properties" in schema)
        assert len({type(value) for value in schema.get("enum", ())}) < 2


def schemas(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for each in inner:
        yield from schemas(each)
