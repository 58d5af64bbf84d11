"""Dataclasses as documents: a field is stored under its own name, or the one in `STORED_AS`, and a mapping
as pairs, since a key may hold characters that a field name may not. A duration is in milliseconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from shared.domain.access import Token
from shared.domain.command import Command, QueueEntry
from shared.domain.event import Event
from shared.domain.identity import DeviceCertificate, Identity
from shared.domain.job import Job, JobPart
from shared.domain.subscription import Subscription
from shared.domain.versions import known
from shared.ports.access import StoredProfile
from shared.ports.certificates import Challenge, InstalledPair, IssuedCertificate, TopicVersion
from shared.ports.events import Journaled, WriterRecord
from shared.ports.pushes import PushRecord
from shared.storage.database import Document

STORED_AS: dict[type, dict[str, str]] = {
    Challenge: {"digest": "_id"},
    Command: {"hash": "_id"},
    DeviceCertificate: {"fingerprint": "sha256", "is_expired": "expired"},
    Event: {"id": "_id"},
    Identity: {"is_ours": "ours"},
    InstalledPair: {"certificate_pem": "certificate", "key_pem": "key"},
    IssuedCertificate: {"transaction": "_id"},
    Job: {"id": "_id", "command_hash": "command", "heartbeats": "beats"},
    JobPart: {"is_done": "done"},
    Journaled: {"id": "_id"},
    PushRecord: {"enrollment": "_id"},
    QueueEntry: {"command_hash": "command", "is_counted": "counted"},
    StoredProfile: {"identifier": "_id"},
    Subscription: {"id": "_id"},
    Token: {"id": "_id"},
    TopicVersion: {"topic": "_id"},
    WriterRecord: {"id": "_id"},
}

Record = TypeVar("Record")
Decode = Callable[[Any], Any]

_AS_THEY_ARE = {str, int, float, bool, bytes, datetime, NoneType}
_DECODED_BY: dict[Any, Decode] = {
    bytes: bytes,
    timedelta: lambda milliseconds: timedelta(milliseconds=milliseconds),
}


def given(values: Mapping[str, Any]) -> Document:
    """The values that are not None: an absent field costs nothing and is in no sparse index."""
    return {name: value for name, value in values.items() if value is not None}


def fields_of(value: Any) -> Document:
    return {stored: _encoded(getattr(value, name)) for name, stored in _names(type(value)).items()}


def _encoded(value: Any) -> Any:
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, timedelta):
        return value // timedelta(milliseconds=1)
    if isinstance(value, tuple | list | frozenset):
        encoded = [_encoded(each) for each in value]
        return sorted(encoded) if isinstance(value, frozenset) else encoded
    if isinstance(value, Mapping):
        return [[name, _encoded(each)] for name, each in value.items()]
    return fields_of(value) if is_dataclass(value) else value


def record(kind: type[Record], document: Mapping[str, Any], **values: Any) -> Record:
    """A dataclass with `values`, and the other fields from the document. Unknown fields of the document are
    ignored; a field that it lacks has its default; a value of a newer version is `known` as such."""
    made: Record = _reader(kind, tuple(values))(document, *values.values())
    return made


def _stored_names(kind: Any) -> dict[str, str]:
    """The names in the document, by those of the fields."""
    renamed = STORED_AS.get(kind, {})
    return {each.name: renamed.get(each.name, each.name) for each in fields(kind)}


def _reader_of(kind: Any, given: tuple[str, ...]) -> Callable[..., Any]:
    """A function that makes records of one kind, from a document and the values of the given fields."""
    hints, stored = get_type_hints(kind), _names(kind)
    read = [each for each in fields(kind) if each.name not in given]
    of_required = [
        each.name for each in read if each.default is MISSING and each.default_factory is MISSING
    ]
    of_optional = {each.name: each.default for each in read if each.name not in of_required}
    order = [*given, *of_required, *of_optional]
    makers = [
        (order.index(each.name), each.default_factory)
        for each in read
        if each.default_factory is not MISSING
    ]
    decoders = [
        (order.index(each.name), decode, of_optional.get(each.name))
        for each in read
        if (decode := _decoder(hints[each.name])) is not None
    ]
    required, optional = ([stored[name] for name in of] for of in (of_required, of_optional))
    defaults = [*of_optional.values()]
    # Has the same slots and is not frozen: in a frozen dataclass, each field costs a function call.
    draft = make_dataclass(kind.__name__, order, slots=True)

    def read_record(document: Mapping[str, Any], *values: Any) -> Any:
        get = document.get
        found = [*values, *map(document.__getitem__, required), *map(get, optional, defaults)]
        for position, decode, default in decoders:
            value = found[position]
            if value is not default and value is not None:
                found[position] = decode(value)
        for position, make in makers:
            if found[position] is MISSING:
                found[position] = make()
        made = draft(*found)
        made.__class__ = kind
        return made

    return read_record


_names: Callable[[type], dict[str, str]] = cache(_stored_names)
_reader: Callable[[type, tuple[str, ...]], Callable[..., Any]] = cache(_reader_of)


def _decoder(hint: Any) -> Decode | None:
    """None: a value is as it is stored."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is UnionType:
        kinds = [each for each in arguments if each is not NoneType]
        return _decoder(kinds[0]) if len(kinds) == 1 else None
    if kind in (tuple, frozenset):
        decode = _decoder(arguments[0])
        return kind if decode is None else lambda values: kind(map(decode, values))
    if kind is Mapping:
        return dict
    if hint in _DECODED_BY:
        return _DECODED_BY[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        return _reader(hint, ())
    return partial(known, hint) if isinstance(hint, type) and issubclass(hint, StrEnum) else None


@dataclass(frozen=True, slots=True)
class EncryptedFields:
    """The encrypted fields of a collection, by dotted paths; each owner declares its own, for key rotation.
    `texts` are text in clear. `where` finds the documents that can have any."""

    collection: str
    fields: Sequence[str]
    texts: frozenset[str] = frozenset()
    where: Mapping[str, Any] = field(default_factory=dict)


def encryption_context(collection: str, key: str, path: str) -> str:
    """The context of an encrypted value, authenticated with it: the value can be decrypted only where it
    was encrypted. Neither collection nor path holds a slash."""
    return f"{collection}/{key}/{path}"
