"""Dataclasses as documents: a field is stored under its own name, or the one in `STORED_AS`, and a mapping
as pairs, since a key may hold characters that a field name may not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
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


def given(values: Mapping[str, Any]) -> Document:
    """The values that are not None: an absent field costs nothing and is in no sparse index."""
    return {name: value for name, value in values.items() if value is not None}


def fields_of(value: Any) -> Document:
    return {stored: _encoded(getattr(value, name)) for name, stored, _ in _plan(type(value))}


def _encoded(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [_encoded(each) for each in value]
    if isinstance(value, frozenset):
        return sorted(map(_encoded, value))
    if isinstance(value, Mapping):
        return [[name, _encoded(each)] for name, each in value.items()]
    return fields_of(value) if is_dataclass(value) else value


def record(kind: type[Record], document: Mapping[str, Any], **values: Any) -> Record:
    """A dataclass with `values`, and the other fields from the document. Unknown fields of the document are
    ignored; a field that it lacks has its default; a value of a newer version is `known` as such."""
    for name, stored, decode in _plan(kind):
        if stored in document and name not in values:
            value = document[stored]
            values[name] = value if decode is None or value is None else decode(value)
    return kind(**values)


def _planned(kind: Any) -> tuple[tuple[str, str, Decode | None], ...]:
    """Name, name in the document and decoder of each field."""
    hints, renamed = get_type_hints(kind), STORED_AS.get(kind, {})
    names = [each.name for each in fields(kind)]
    return tuple((name, renamed.get(name, name), _decoder(hints[name])) for name in names)


_plan: Callable[[type], tuple[tuple[str, str, Decode | None], ...]] = cache(_planned)


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
    if hint is bytes:
        return bytes
    if isinstance(hint, type) and is_dataclass(hint):
        return partial(record, hint)
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
