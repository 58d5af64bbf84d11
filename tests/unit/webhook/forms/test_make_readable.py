"""Apple's schema becomes the list of what redacted events keep, or the run stops and says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.webhook.forms.make import HARMLESS, READABLE, main, readable_keys, readable_text
from services.webhook.forms.redaction import known_keys
from shared.apple.catalogue.make import SchemaSurprise

EVERY_ANSWER = ["CommandUUID", "ErrorChain", "RequestType", "Status"]
TOKEN_UPDATE = """
payload: {requesttype: TokenUpdate}
payloadkeys:
- {key: Topic, type: <string>, content: Prose.}
- {key: Token, type: <data>}
- {key: PushMagic, type: <string>}
- {key: AwaitingConfiguration, type: <boolean>}
"""
SECURITY_INFO = """
payload: {requesttype: SecurityInfo}
payloadkeys: [{key: Ignored, type: <string>}]
responsekeys:
- key: SecurityInfo
  type: <dictionary>
  subkeys:
  - {key: PasscodePresent, type: <boolean>}
  - {key: Anything, type: <any>}
  - {key: Secrets, type: <dictionary>, subkeys: [{key: A, type: <data>}]}
- key: Apps
  type: <array>
  subkeys:
  - key: App
    type: <dictionary>
    subkeys:
    - {key: Name, type: <string>}
    - {key: Sizes, type: <array>, subkeys: [{key: Size, type: <integer>}]}
- key: Managed
  type: <dictionary>
  subkeys: [{key: ANY, type: <dictionary>, subkeys: [{key: State, type: <string>}]}]
- {key: Counts, type: <dictionary>, subkeys: [{key: Category Name, type: <integer>}]}
"""
EXPECTED = {
    "Topic": "string",
    "AwaitingConfiguration": "boolean",
    "SecurityInfo": {"PasscodePresent": "boolean"},
    "Apps": {"Name": "string", "Sizes": "integer"},
    "Managed": {"*": {"State": "string"}},
    "Counts": {"*": "integer"},
}


def made(source: Path, folder: Path) -> dict[str, Any]:
    """What the tool writes, without that which is in every answer."""
    assert main([str(source), str(folder / "made.json")]) == 0
    keys: dict[str, Any] = json.loads((folder / "made.json").read_text())
    for name in EVERY_ANSWER:
        del keys[name]
    return keys


def test_a_checkout_leaves_what_is_neither_data_nor_secret(tmp_path: Path) -> None:
    for kind, text in (("checkin", TOKEN_UPDATE), ("commands", SECURITY_INFO)):
        (tmp_path / "mdm" / kind).mkdir(parents=True)
        (tmp_path / "mdm" / kind / "one.yaml").write_text(text)

    assert made(tmp_path, tmp_path) == EXPECTED


def test_files_of_facts_leave_the_same(tmp_path: Path) -> None:
    names = [{"key": "Name", "type": "string"}]
    sizes = {"key": "Sizes", "type": "array", "items": [{"key": "Size", "type": "integer"}]}
    state = {"type": "dictionary", "subkeys": [{"key": "State", "type": "string"}]}
    checkin = [
        {"key": "Topic", "type": "string"},
        {"key": "Token", "type": "data"},
        {"key": "PushMagic", "type": "string"},
        {"key": "AwaitingConfiguration", "type": "boolean"},
    ]
    passcode = {"key": "PasscodePresent", "type": "boolean"}
    app = {"key": "App", "type": "dictionary", "subkeys": [*names, sizes]}
    response = [
        {"key": "SecurityInfo", "type": "dictionary", "subkeys": [passcode]},
        {"key": "Apps", "type": "array", "items": [app]},
        {"key": "Managed", "type": "dictionary", "any_key": state},
        {"key": "Counts", "type": "dictionary", "any_key": {"type": "integer"}},
    ]
    (tmp_path / "checkin.json").write_text(json.dumps({"TokenUpdate": {"keys": checkin}}))
    (tmp_path / "commands.json").write_text(json.dumps({"SecurityInfo": {"response": response}}))

    assert made(tmp_path, tmp_path) == EXPECTED


@pytest.mark.parametrize(
    "keys",
    [
        [{"key": "NewPasscode", "type": "<string>"}],
        [{"key": "A", "type": "<colour>"}],
        [{"key": "A", "type": "<string>"}, {"key": "A", "type": "<integer>"}],
        [{"key": "A", "type": "<string>"}, {"key": "A", "type": "<dictionary>"}],
    ],
)
def test_what_nobody_has_decided_on_stops_the_run(keys: list[dict[str, str]]) -> None:
    with pytest.raises(SchemaSurprise):
        readable_keys([keys])


def test_a_folder_without_a_schema_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(SchemaSurprise):
        main([str(tmp_path), str(tmp_path / "made.json")])


def test_the_file_in_use_is_as_the_tool_writes_it() -> None:
    """Made from itself, as from a schema without secrets, it stays as it is: the schema is not here."""
    again = readable_keys([as_schema(known_keys())])

    assert readable_text(again) == READABLE.read_text(encoding="utf-8")
    assert all(name in READABLE.read_text() for name in HARMLESS)


def as_schema(known: Any) -> list[dict[str, Any]]:
    return [
        {"key": "ANY" if name == "*" else name}
        | (
            {"type": f"<{below}>"}
            if isinstance(below, str)
            else {"type": "<dictionary>", "subkeys": as_schema(below)}
        )
        for name, below in known.items()
    ]
