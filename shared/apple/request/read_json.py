"""JSON from API clients: read strictly, and turned into commands.

`parse_json` promises a dictionary or BadRequest, in bounded time, whatever the bytes are: doubled keys
and numbers beyond 64 bits are refused with their paths instead of changed in silence. `read_request`
understands MicroMDM's flat form and Apple's (`{"Command": {...}}`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from shared.apple.request.json_doubts import LONG, fits, refuse_doubtful
from shared.apple.request.terms import TERMS, AskedTerms, GivenTerms
from shared.apple.values.reading import Reading, read_id
from shared.domain.errors import BadRequest, display_name, key_path
from shared.nearest import folded

MAX_TARGETS = 100_000
"""Enrollments that one request may name."""


class _Doubtful(Exception):
    """Something that JSON allows and we do not; reading again tells where."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Doubtful
    return found


def _refuse(_constant: str) -> NoReturn:
    raise _Doubtful


def _integer(text: str) -> int:
    if len(text) >= LONG and not fits(text):
        raise _Doubtful
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Doubtful
    return value


_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_refuse
)


def parse_json(raw: bytes) -> dict[str, object]:
    """The object that these bytes are; a byte order mark in front is ignored."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    try:
        value = _STRICT.decode(text)
    except _Doubtful:
        refuse_doubtful(text)
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise BadRequest(f"the body is not JSON: {exc.msg} ({where})") from None
    except RecursionError:
        raise BadRequest("the body is nested too deep") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A request as the client sent it, its envelope taken off; `path` leads to the keys."""

    targets: tuple[str, ...]
    is_bulk: bool
    terms: AskedTerms
    uuid: str | None
    request_type: object
    request_type_path: str
    keys: Mapping[str, object]
    path: str


def read_request(body: Mapping[str, object]) -> tuple[CommandRequest, Reading]:
    """The parts of a request, in either form, and the reading that holds what is wrong so far."""
    given: dict[str, str] = {}
    keys: dict[str, object] = {}
    doubled: list[str] = []
    for name, value in body.items():
        word = _ENVELOPE.get(name) or _ENVELOPE.get(folded(name))
        if word is None:
            keys[name] = value
        elif value is not None:
            doubled += [name] if word in given else []
            given[word] = name
    reading = Reading(exact="command" in given)
    for name in doubled:
        reading.fault(display_name(name), "this key in one spelling only")
    take = _apple_form if reading.exact else _flat_form
    request = take(_Given(body, given, keys), reading)
    return request, reading


_ENVELOPE = {
    "udid": "udid",
    "udids": "udids",
    "commanduuid": "uuid",
    "requesttype": "type",
    "command": "command",
    "command_uuid": "uuid",
    "request_type": "type",
    **TERMS,
}
_TERM_NAMES = frozenset(TERMS.values())
_BESIDE_COMMAND = ("udid", "udids", "command_uuid", "Command", *TERMS.values())


@dataclass(frozen=True, slots=True)
class _Given:
    """A body, the names it uses for the parts of the envelope, and what else is in it."""

    body: Mapping[str, object]
    names: Mapping[str, str]
    keys: dict[str, object]

    def targets(self, reading: Reading) -> tuple[str, ...]:
        """The targets that the client names, each once."""
        if "udids" not in self.names:
            name = self.names.get("udid", "udid")
            return (read_id(self.body.get(name), display_name(name), reading),)
        name = self.names["udids"]
        if "udid" in self.names:
            other = display_name(self.names["udid"])
            reading.fault(display_name(name), f"one of the two only, {other} is given too")
        return _ids(self.body[name], display_name(name), reading)

    def terms(self, reading: Reading) -> AskedTerms:
        given = {t: (name, self.body[name]) for t, name in self.names.items() if t in _TERM_NAMES}
        return GivenTerms(given).read(reading)


def _flat_form(given: _Given, reading: Reading) -> CommandRequest:
    name = given.names.get("type", "request_type")
    return CommandRequest(
        targets=given.targets(reading),
        is_bulk="udids" in given.names,
        terms=given.terms(reading),
        uuid=_uuid(given, reading),
        request_type=given.body.get(name),
        request_type_path=display_name(name),
        keys=given.keys,
        path="",
    )


def _apple_form(given: _Given, reading: Reading) -> CommandRequest:
    for name, value in given.keys.items():
        if value is not None:
            reading.unknown(display_name(name), name, _BESIDE_COMMAND)
    if "type" in given.names:
        reading.fault(
            display_name(given.names["type"]), "no request type beside Command, which has one"
        )
    path = display_name(given.names["command"])
    command = given.body[given.names["command"]]
    if not isinstance(command, dict):
        reading.fault(path, "an object with a RequestType")
        command = {}
    return CommandRequest(
        targets=given.targets(reading),
        is_bulk="udids" in given.names,
        terms=given.terms(reading),
        uuid=_uuid(given, reading),
        request_type=command.get("RequestType"),
        request_type_path=key_path(path, "RequestType"),
        keys={name: value for name, value in command.items() if name != "RequestType"},
        path=path,
    )


def _ids(value: object, path: str, reading: Reading) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TARGETS:
        reading.fault(path, f"a list of 1 to {MAX_TARGETS} ids")
        return ()
    return tuple({read_id(id_, f"{path}[{i}]", reading): None for i, id_ in enumerate(value)})


def _uuid(given: _Given, reading: Reading) -> str | None:
    """The client's own CommandUUID; None when there is none, or a blank one (MicroMDM's way)."""
    value = given.body.get(given.names.get("uuid", "command_uuid"))
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read_id(value, display_name(given.names.get("uuid", "command_uuid")), reading)
