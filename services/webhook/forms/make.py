"""Makes `readable.json` from Apple's device-management schema: a checkout, or files of its facts.

    python -m services.webhook.forms.make CHECKOUT [OUTPUT]

In place of a checkout: a folder with `checkin.json` and `commands.json`, the facts of all messages under
Apple's own field names. A tool for developers (it needs PyYAML, an extra); nothing that runs imports it. A
key that sounds like a secret, and is in neither list here, stops the run: someone has to decide.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from shared.apple.catalogue.make import TYPES, SchemaSurprise, schema_key

READABLE = Path(__file__).with_name("readable.json")
WITHHELD = frozenset(
    {
        # tokens and what they belong to
        *("PushMagic", "OrganizationMagic", "TokenServiceType", "TokenParameters"),
        *("DigestResponse", "ActivationLockBypassCode", "UnusedRedemptionCode"),
        *("FDE_PersonalRecoveryKeyDeviceKey", "iTunesStoreAccountHash"),
        # places
        *("Latitude", "Longitude", "HorizontalAccuracy", "VerticalAccuracy", "Altitude"),
        *("Speed", "Course", "Timestamp"),
        # what a declaration says, and where
        "Endpoint",
    }
)
"""Keys that a redacted event leaves out, beside all data and all that has any type."""
HARMLESS = frozenset(
    {
        "BootstrapTokenAllowedForAuthentication",
        "PasscodeLockGracePeriod",
        "PasscodeLockGracePeriodEnforced",
    }
)
"""Keys that sound like secrets, and are settings; those that are true or false always are."""
_SECRET = re.compile(
    "token|passw|passcode|secret|magic|recovery|escrow|itude|pin|hash|bypass", re.I
)
_ERROR_CHAIN = {
    "ErrorCode": "integer",
    "ErrorDomain": "string",
    "LocalizedDescription": "string",
    "USEnglishDescription": "string",
}
_OF_EVERY_ANSWER: Mapping[str, Any] = {
    "CommandUUID": "string",
    "ErrorChain": _ERROR_CHAIN,
    "RequestType": "string",
    "Status": "string",
}
"""What the schema of the single commands does not repeat."""


def read_messages(source: Path) -> Iterator[Iterable[Mapping[str, Any]]]:
    """The keys of each message and each answer of a device, as the schema writes them."""
    for kind, ours, theirs in (
        ("checkin", "keys", "payloadkeys"),
        ("commands", "response", "responsekeys"),
    ):
        facts = source / f"{kind}.json"
        if facts.exists():
            for entry in json.loads(facts.read_text(encoding="utf-8")).values():
                yield map(schema_key, entry.get(ours, ()))
        else:
            for path in sorted((source / "mdm" / kind).glob("*.yaml")):
                document = yaml.safe_load(path.read_text(encoding="utf-8"))
                yield document.get(theirs) or ()


def readable_keys(messages: Iterable[Iterable[Mapping[str, Any]]]) -> dict[str, Any]:
    """The keys that may be read of any message. Raises SchemaSurprise."""
    found: dict[str, Any] = dict(_OF_EVERY_ANSWER)
    count = 0
    for keys in messages:
        count += 1
        for key in keys:
            _add(found, str(key["key"]), key)
    if not count:
        raise SchemaSurprise("no messages found")
    return found


def _add(found: dict[str, Any], name: str, key: Mapping[str, Any]) -> None:
    """What a key, or each item of it, has under this name."""
    kind, inner = str(key["type"]).strip("<>"), key.get("subkeys") or ()
    if name in WITHHELD:
        return
    if name == "ErrorChain":
        found[name] = _ERROR_CHAIN
    elif kind == "array":
        for item in inner:
            _add(found, name, item)
    elif kind == "dictionary":
        _add_all(found, name, inner)
    elif kind not in ("data", "any"):
        _add_value(found, name, kind)


def _add_all(found: dict[str, Any], name: str, keys: Iterable[Mapping[str, Any]]) -> None:
    below = found.setdefault(name, {})
    if not isinstance(below, dict):
        raise SchemaSurprise(f"{name}: both {below} and a dictionary")
    for key in keys:
        label = str(key["key"])
        _add(below, "*" if " " in label or label == "ANY" else label, key)
    if not below:
        del found[name]


def _add_value(found: dict[str, Any], name: str, kind: str) -> None:
    if kind not in TYPES:
        raise SchemaSurprise(f"{name}: type {kind}")
    if _SECRET.search(name) and kind != "boolean" and name not in HARMLESS:
        raise SchemaSurprise(f"{name}: sounds like a secret; put it into WITHHELD or HARMLESS")
    if found.setdefault(name, kind) != kind:
        raise SchemaSurprise(f"{name}: both {found[name]} and {kind}")


def readable_text(keys: Mapping[str, Any]) -> str:
    """The file: JSON, one line for each key of a message, so that a new release shows as a short diff."""
    rows = (
        f"{json.dumps(name)}: {json.dumps(keys[name], sort_keys=True, separators=(',', ':'))}"
        for name in sorted(keys)
    )
    return "{\n" + ",\n".join(rows) + "\n}\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make_readable", description=__doc__)
    parser.add_argument("schema", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=READABLE)
    chosen = parser.parse_args(arguments)
    keys = readable_keys(read_messages(chosen.schema))
    chosen.output.write_text(readable_text(keys), encoding="utf-8")
    sys.stdout.write(f"{chosen.output}: {len(keys)} keys\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
