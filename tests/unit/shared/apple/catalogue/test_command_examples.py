"""The examples, request by request: an equal property list, or a refusal that names the path."""

import json
import plistlib
from pathlib import Path
from typing import Any

import pytest

from shared.apple.request.plist import PreparedCommand
from shared.apple.request.read_json import parse_json
from shared.domain.errors import BadRequest
from tests.support.command_requests import paths, prepare, with_types

SAMPLES = Path(__file__).parents[4] / "contract" / "samples" / "command_examples.json"
EXAMPLES: list[dict[str, Any]] = json.loads(SAMPLES.read_text(encoding="utf-8"))


def outcome(example: dict[str, Any]) -> PreparedCommand | BadRequest:
    text = example.get("request_text")
    raw = json.dumps(example["request"]) if text is None else text
    try:
        return prepare(parse_json(raw.encode()))
    except BadRequest as refusal:
        return refusal


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["name"] for example in EXAMPLES])
def test_every_example_has_its_expected_outcome(example: dict[str, Any]) -> None:
    expected = example["expect"]
    result = outcome(example)
    if isinstance(result, BadRequest):
        assert expected["outcome"] != "accept", str(result)
        if expected["outcome"] == "reject" and expected["path"]:
            assert expected["path"] in paths(result)
            assert expected["path"] in str(result)
        return
    assert expected["outcome"] != "reject"
    for_comparison = [plistlib.loads(text.encode()) for text in expected.get("plist_any", ())]
    ours = plistlib.loads(result.command.plist)
    for document in [ours, *for_comparison] if expected.get("any_uuid") else ():
        document.pop("CommandUUID")
    if for_comparison:
        assert with_types(ours) in [with_types(document) for document in for_comparison]
