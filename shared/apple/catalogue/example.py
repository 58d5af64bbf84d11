"""An example request of each command, made from its form; each is one that is taken."""

from collections.abc import Mapping

from shared.apple.catalogue.compiling import ALWAYS_KNOWN
from shared.apple.values.containers import Array, Dictionary, Union
from shared.apple.values.scalars import Boolean, Data, Date, Integer, Real, Text, Value

EXAMPLE_UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"
MOST_OPTIONAL = 3

_BETTER: Mapping[str, object] = {
    "pin": "123456",
    "message": "Please call us.",
    "phone_number": "+49 30 1234567",
    "identifier": "com.example.app",
    "username": "ada",
    "language": "en",
    "locale": "de_DE",
    "time_zone": "Europe/Berlin",
    "manifest_url": "https://example.com/manifest.plist",
    "product_version": "15.1",
}
"""Texts that say more than the name of their key."""

_FIXED: Mapping[type, object] = {
    Real: 0.5,
    Boolean: True,
    Data: "ZXhhbXBsZQ==",
    Date: "2024-10-21T07:00:00Z",
}


def command_example(form: Dictionary) -> dict[str, object]:
    """A request with the required keys, or a few simple ones where none is required."""
    return {"udid": EXAMPLE_UDID, "request_type": form.name, **_keys(form)}


def _keys(value: Dictionary) -> dict[str, object]:
    chosen = [key for key in value.keys if key.required]
    if not chosen:
        simple = [key for key in value.keys if isinstance(key.value, Text | Integer | Boolean)]
        lists = [key for key in value.keys if isinstance(key.value, Array)]
        chosen = [key for key in simple if key.name != ALWAYS_KNOWN["name"]][:MOST_OPTIONAL]
        chosen = chosen or lists[:1]
    return {key.json: _value(key.value, key.json) for key in chosen}


def _value(value: Value, name: str) -> object:
    match value:
        case Text(allowed=allowed, known=known):
            return next(iter(allowed or known), _BETTER.get(name, name.replace("_", " ")))
        case Integer():
            return value.allowed[0] if value.allowed else max(1, value.lowest)
        case Array():
            return [_value(value.item, name)]
        case Dictionary():
            return _keys(value)
        case Union():
            return _keys(min(value.forms.values(), key=lambda form: len(form.keys)))
    return _FIXED.get(type(value), {})
