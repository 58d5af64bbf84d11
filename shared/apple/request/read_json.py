"""JSON from API clients: read strictly, and turned into commands.

`parse_json` promises a dictionary or BadRequest, in bounded time, for any bytes: doubled keys
and numbers beyond 64 bits are refused with their paths, `MOST_NAMED` at most. `read_request` understands
MicroMDM's flat form and Apple's (`{"Command": {...}}`).
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from shared.apple.request.terms import TERMS, AskedTerms, read_terms
from shared.apple.values.reading import Reading, read_id
from shared.apple.values.scalars import INTEGERS, MAX_UNSIGNED
from shared.domain.errors import BadRequest, display_name, key_path
from shared.nearest import folded

MAX_TARGETS = 100_000
"""Enrollments that one request may name."""
MOST_NAMED = 10
LONG = 20
"""Digits from which on a number must be looked at: 2^64 has as many."""


def parse_json(raw: bytes) -> dict[str, object]:
    """The object that these bytes are; a byte order mark in front is ignored."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    try:
        value = _decoded(text)
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise BadRequest(f"the body is not JSON: {exc.msg} ({where})") from None
    except RecursionError:
        raise BadRequest("the body is nested too deep") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    return value


_TOO_LARGE = object()
"""In place of a number that cannot be kept."""


class _Doubled(dict[str, object]):
    """An object with doubled keys; `names` are the first of them."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__()
        self.names: list[str] = []
        for name, value in pairs:
            if name in self and len(self.names) < MOST_NAMED:
                self.names.append(name)
            self[name] = value


class _Doubtful(Exception):
    """Something that JSON allows and we do not; reading again says where."""


class _Strict(json.JSONDecoder):
    """Raises _Doubtful, or marks what is doubtful, in as many places as will be named."""

    def __init__(self, *, marks: bool) -> None:
        super().__init__(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._real,
            parse_constant=self._too_large,
        )
        self._marks = marks
        self._marked = 0

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self._mark()
        return _Doubled(pairs) if self._marked <= MOST_NAMED else found

    def _integer(self, text: str) -> object:
        if len(text) < LONG:
            return int(text)
        is_kept = len(text) == LONG and INTEGERS[0] <= int(text) <= MAX_UNSIGNED
        return int(text) if is_kept else self._too_large(text)

    def _real(self, text: str) -> object:
        value = float(text)
        return value if math.isfinite(value) else self._too_large(text)

    def _too_large(self, _text: str) -> object:
        self._mark()
        return _TOO_LARGE

    def _mark(self) -> None:
        if not self._marks:
            raise _Doubtful
        self._marked += 1


_STRICT = _Strict(marks=False)


def _decoded(text: str) -> object:
    try:
        return _STRICT.decode(text)
    except _Doubtful:
        value = _Strict(marks=True).decode(text)
    reading = Reading()
    for path, expected in islice(_marks(value, ""), MOST_NAMED):
        reading.fault(path, expected)
    reading.raise_faults()
    raise BadRequest("the body has a key twice in one object, or a number beyond 64 bits")


def _marks(value: object, path: str) -> Iterator[tuple[str, str]]:
    """The paths of the marks in a value, and what was expected there."""
    inner: Iterable[tuple[str | int, object]] = ()
    if value is _TOO_LARGE:
        yield path, "a number of at most 64 bits"
    elif isinstance(value, dict):
        for name in value.names if isinstance(value, _Doubled) else ():
            yield key_path(path, name), "this key only once"
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, each in inner:
        if each is _TOO_LARGE or isinstance(each, dict | list):
            at = f"{path}[{key}]" if isinstance(key, int) else key_path(path, key)
            yield from _marks(each, at)


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A request as the client sent it, without its envelope; `path` leads to the keys."""

    targets: tuple[str, ...]
    is_bulk: bool
    terms: AskedTerms
    uuid: str | None
    request_type: object
    request_type_path: str
    keys: Mapping[str, object]
    path: str


_ENVELOPE = {
    "udid": "udid",
    "udids": "udids",
    "commanduuid": "command_uuid",
    "requesttype": "request_type",
    "command": "Command",
    "command_uuid": "command_uuid",
    "request_type": "request_type",
    **TERMS,
}
_TERM_NAMES = frozenset(TERMS.values())
_BESIDE_COMMAND = ("udid", "udids", "command_uuid", "Command", *TERMS.values())


def read_request(body: Mapping[str, object]) -> tuple[CommandRequest, Reading]:
    """The parts of a request, in either form, and the reading that holds what is wrong so far."""
    given: dict[str, tuple[str, object]] = {}  # our name to the client's name and value
    keys: dict[str, object] = {}
    doubled: list[str] = []
    for name, value in body.items():
        word = _ENVELOPE.get(name) or _ENVELOPE.get(folded(name))
        if word is None:
            keys[name] = value
        elif value is not None:
            doubled += [name] if word in given else []
            given[word] = name, value
    reading = Reading(exact="Command" in given)
    for name in doubled:
        reading.fault(display_name(name), "this key in one spelling only")
    path = ""
    type_name, request_type = given.get("request_type", ("request_type", None))
    type_path = display_name(type_name)
    if reading.exact:
        path, command = _command(given, keys, reading)
        request_type, type_path = command.get("RequestType"), key_path(path, "RequestType")
        keys = {name: value for name, value in command.items() if name != "RequestType"}
    request = CommandRequest(
        targets=_targets(given, reading),
        is_bulk="udids" in given,
        terms=read_terms({t: each for t, each in given.items() if t in _TERM_NAMES}, reading),
        uuid=_uuid(given, reading),
        request_type=request_type,
        request_type_path=type_path,
        keys=keys,
        path=path,
    )
    return request, reading


Given = Mapping[str, tuple[str, object]]


def _command(
    given: Given, beside: Mapping[str, object], reading: Reading
) -> tuple[str, Mapping[str, object]]:
    """Apple's form: the path of `Command`, and what is in it."""
    for name, value in beside.items():
        if value is not None:
            reading.unknown(display_name(name), name, _BESIDE_COMMAND)
    if "request_type" in given:
        path = display_name(given["request_type"][0])
        reading.fault(path, "no request type beside Command, which has one")
    name, command = given["Command"]
    if isinstance(command, dict):
        return display_name(name), command
    reading.fault(display_name(name), "an object with a RequestType")
    return display_name(name), {}


def _targets(given: Given, reading: Reading) -> tuple[str, ...]:
    """The targets that the client names, each once."""
    if "udids" not in given:
        name, value = given.get("udid", ("udid", None))
        return (read_id(value, display_name(name), reading),)
    name, value = given["udids"]
    path = display_name(name)
    if "udid" in given:
        other = display_name(given["udid"][0])
        reading.fault(path, f"one of the two only, {other} is given too")
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TARGETS:
        reading.fault(path, f"a list of 1 to {MAX_TARGETS} ids")
        return ()
    return tuple({read_id(id_, f"{path}[{i}]", reading): None for i, id_ in enumerate(value)})


def _uuid(given: Given, reading: Reading) -> str | None:
    """The client's own CommandUUID; None when there is none, or a blank one (MicroMDM's way)."""
    name, value = given.get("command_uuid", ("command_uuid", None))
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read_id(value, display_name(name), reading)
