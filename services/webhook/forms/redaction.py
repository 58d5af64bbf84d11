"""What a subscriber may read who shall see no secret.

Promises: of a device's message only keys are left that Apple documents as names, versions, settings and
states, each with a value of its documented type; never data, tokens, keys, passcodes or places, wherever in
the message they are; of anything else the ids and the status. `readable.json` holds those keys, of release
27.0 of Apple's schema; `*` means any key, and a list is as its items.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson

Known = Mapping[str, Any] | str

_IDS = ("udid", "enrollment_id", "user_id", "status", "command_uuid")
_SECRET = re.compile(r"token|magic|secret|passw|passcode|key|challenge|location|itude", re.I)
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "real": (int, float),
    "boolean": (bool,),
    "date": (datetime, str),
}


@cache
def known_keys() -> Known:
    """The keys of all messages and answers: of each the keys below, or its type."""
    file = Path(__file__).with_name("readable.json")
    keys: Mapping[str, Any] = orjson.loads(file.read_bytes())
    return keys


def readable(value: Any, known: Known) -> Any:
    """What of a parsed message, or its JSON, may be read; None: nothing."""
    if isinstance(value, list):
        items = (readable(each, known) for each in value if not isinstance(each, list))
        return [each for each in items if each is not None]
    if isinstance(known, str):
        return value if type(value) in _TYPES[known] else None
    if not isinstance(value, dict):
        return None
    left = {}
    for name, each in value.items():
        below = known.get(name) or known.get("*")
        rest = None if below is None else readable(each, below)
        if rest is not None:
            left[name] = rest
    return left


def ids_and_status(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: content[name] for name in _IDS if isinstance(content.get(name), str)}


def own_facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of an event of ours: its facts, and what may be read of a device's answer in it."""
    left = {}
    for name, value in content.items():
        if isinstance(value, dict | list):
            left[name] = readable(value, known_keys())
        elif not _SECRET.search(name):
            left[name] = value
    return left
