"""OpenAPI shows the commands as they are read."""

import json
from typing import Any

from shared.apple.command_json import parse_json
from tests.unit.command_requests import CATALOGUE, prepare


def test_openapi_shows_every_command_with_an_example_that_is_accepted() -> None:
    schema: Any = CATALOGUE.openapi_schema()
    shown = {one["title"]: one["example"] for one in schema["oneOf"]}
    assert set(shown) == set(CATALOGUE.request_types)
    assert len(shown) == 66
    for title, example in shown.items():
        prepared = prepare(parse_json(json.dumps(example).encode()))
        assert prepared.command.request_type == title


def test_openapi_names_every_key_as_answers_do() -> None:
    schema: Any = CATALOGUE.openapi_schema()
    for one in schema["oneOf"]:
        form = CATALOGUE.forms[one["title"]]
        assert {key.json for key in form.keys.keys} <= set(one["properties"])
        assert {"udid", "request_type"} <= set(one["required"])
