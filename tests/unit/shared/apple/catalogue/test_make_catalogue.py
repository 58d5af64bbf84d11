"""A checkout of Apple's schema becomes a catalogue that compiles, or the run stops and says why."""

import json
from pathlib import Path

import pytest

from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.catalogue.compiling import UnusableCatalogue
from shared.apple.catalogue.make import CATALOGUE, SchemaSurprise, as_text, main, read_commands
from shared.apple.request.advice import Recipient
from shared.domain.errors import BadRequest

COMMAND = """
title: A command
payload:
  requesttype: {name}
  supportedOS:
    iOS: {{introduced: '17.0', supervised: true, userenrollment: {{mode: forbidden}}}}
  content: Prose.
payloadkeys:
{keys}
"""
KEYS = """
- {key: Level, type: <integer>, presence: required, range: {min: 1, max: 3}, content: Prose.}
- {key: Code, type: <string>, format: '[0-9]{6}'}
- {key: When, type: <date>}
- {key: Share, type: <real>, range: {min: 0, max: 1}}
- key: Names
  type: <array>
  repetition: {min: 1, max: 2}
  subkeys: [{key: Name, type: <string>}]
- key: Free
  type: <dictionary>
  subkeys: [{key: ANY, type: <any>}]
- key: Items
  type: <array>
  subkeys:
  - key: One
    type: <dictionary>
    subkeys: [{key: Kind, type: <string>, presence: required, rangelist: [One]}]
  - key: Two
    type: <dictionary>
    subkeys:
    - {key: Kind, type: <string>, presence: required, rangelist: [Two]}
    - {key: Enabled, type: <boolean>, presence: required}
"""


def checkout(folder: Path, keys: str = KEYS, name: str = "NextYear") -> Path:
    commands = folder / "mdm" / "commands"
    commands.mkdir(parents=True, exist_ok=True)
    text = COMMAND.format(name=name, keys=keys)
    (commands / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def made(folder: Path, keys: str = KEYS) -> CommandCatalogue:
    output = folder / "catalogue.json"
    assert main(["--release", "next", str(checkout(folder, keys)), str(output)]) == 0
    return CommandCatalogue.of(json.loads(output.read_text(encoding="utf-8")))


def faults(catalogue: CommandCatalogue, **keys: object) -> list[str]:
    try:
        catalogue.prepare({"udid": "a", "request_type": "NextYear", **keys}, lambda: "U")
    except BadRequest as refusal:
        return [fault.path for fault in refusal.faults]
    return []


def test_a_new_release_becomes_a_catalogue_that_checks(tmp_path: Path) -> None:
    catalogue = made(tmp_path)
    assert catalogue.release == "next"
    good = {
        "level": 3,
        "code": "123456",
        "when": "2024-10-21T07:00:00.5+02:00",
        "share": 1,
        "names": ["a"],
        "free": {"x": 1},
        "items": [{"kind": "One"}, {"kind": "Two", "enabled": False}],
    }
    assert faults(catalogue, **good) == []
    for name, value, path in [
        ("level", 4, "level"),
        ("code", "12345x", "code"),
        ("when", "2024-10-21", "when"),
        ("when", "2024-13-21T07:00:00Z", "when"),
        ("share", 1.5, "share"),
        ("names", [], "names"),
        ("names", ["a", "b", "c"], "names"),
        ("items", [{"kind": "Three"}], "items[0].kind"),
        ("items", [{"kind": "Two"}], "items[0].enabled"),
        ("items", [{}], "items[0].kind"),
    ]:
        assert faults(catalogue, **(good | {name: value})) == [path]


def test_the_prose_of_the_schema_stays_behind(tmp_path: Path) -> None:
    assert "Prose" not in json.dumps(read_commands(checkout(tmp_path)))


@pytest.mark.parametrize(
    "keys",
    [
        "- {key: A, type: <string>, surprise: 1}",
        "- {key: A, type: <colour>}",
        "- {key: On, type: <string>}",
        "- {key: A, type: <dictionary>, subkeys: [{key: ANY, type: <any>}, {key: ANY x, type: <any>}]}",
        "- {key: A, type: <array>, subkeys: [{key: B, type: <string>}, {key: C, type: <integer>}]}",
        "- {key: A, type: <string>, supportedOS: {iOS: {surprise: 1}}}",
    ],
)
def test_a_surprise_in_the_schema_stops_the_run(tmp_path: Path, keys: str) -> None:
    with pytest.raises(SchemaSurprise):
        read_commands(checkout(tmp_path, keys))


def test_a_folder_without_commands_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(SchemaSurprise):
        read_commands(tmp_path)


def test_keys_that_one_spelling_would_confuse_cannot_be_compiled(tmp_path: Path) -> None:
    with pytest.raises(UnusableCatalogue):
        made(tmp_path, "- {key: PIN, type: <string>}\n- {key: Pin, type: <string>}")


def test_what_is_special_about_single_values_is_kept(tmp_path: Path) -> None:
    keys = """
- key: Queries
  type: <array>
  presence: required
  subkeys:
  - key: Query
    type: <string>
    subkeys:
    - {key: Old, type: <string>}
    - {key: New, type: <string>, supportedOS: {iOS: {introduced: '18.0'}}}
"""
    catalogue = made(tmp_path, keys)
    body = {"udid": "a", "request_type": "NextYear", "queries": ["Old", "New", "Newer"]}
    phone = Recipient("iPhone14,2", "17.0", is_device_channel=True, is_user_enrollment=False)
    warnings = catalogue.advise(catalogue.prepare(body, lambda: "U"), phone).warnings
    assert [w for w in warnings if "queries" in w] == [
        "queries[1] (New): needs iOS 18.0, the device has 17.0"
    ]


def test_the_catalogue_that_is_part_of_this_version_was_made_by_this_tool() -> None:
    text = CATALOGUE.read_text(encoding="utf-8")
    made_of = json.loads(text)
    assert as_text(made_of["commands"], made_of["release"]) == text
    assert CommandCatalogue.load().release == made_of["release"]


def test_a_file_of_facts_makes_the_same_catalogue_as_its_checkout(tmp_path: Path) -> None:
    inside = {"key": "Name", "type": "string"}
    kinds = [
        {
            "key": name,
            "type": "dictionary",
            "subkeys": [
                {"key": "Kind", "type": "string", "presence": "required", "rangelist": [name]},
                *more,
            ],
        }
        for name, more in (
            ("One", []),
            ("Two", [{"key": "Enabled", "type": "boolean", "presence": "required"}]),
        )
    ]
    keys = [
        {"key": "Level", "type": "integer", "presence": "required", "range": {"min": 1, "max": 3}},
        {"key": "Code", "type": "string", "format": "[0-9]{6}"},
        {"key": "When", "type": "date"},
        {"key": "Share", "type": "real", "range": {"min": 0, "max": 1}},
        {"key": "Names", "type": "array", "repetition": {"min": 1, "max": 2}, "items": [inside]},
        {"key": "Free", "type": "dictionary", "any_key": {"type": "any"}},
        {"key": "Items", "type": "array", "discriminator": "Kind", "items": kinds},
    ]
    ios = {"introduced": "17.0", "supervised": True, "userenrollment": {"mode": "forbidden"}}
    facts = tmp_path / "commands.json"
    facts.write_text(json.dumps({"NextYear": {"keys": keys, "supportedOS": {"iOS": ios}}}))

    assert main(["--release", "next", str(facts), str(tmp_path / "a.json")]) == 0
    assert main(["--release", "next", str(checkout(tmp_path)), str(tmp_path / "b.json")]) == 0
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_an_alternative_that_lost_its_kind_gets_its_label_back(tmp_path: Path) -> None:
    kind = "{{key: Kind, type: <string>, rangelist: [{0}]}}"
    row = "  - {{key: {0}, type: <dictionary>, subkeys: [" + kind + "]}}\n"
    kinds = "".join(map(row.format, ("One", "Two", "Three")))
    lost = "  - {key: Four, type: <dictionary>, subkeys: [{key: Open, type: <boolean>}]}\n"
    catalogue = made(tmp_path, f"- key: Items\n  type: <array>\n  subkeys:\n{kinds}{lost}")

    assert faults(catalogue, items=[{"kind": "Four", "open": True}, {"kind": "One"}]) == []
    assert faults(catalogue, items=[{"open": True}]) == ["items[0].kind"]
