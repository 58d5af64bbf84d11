"""Messages over the socket of a store: BSON documents, each behind its length.

A connection carries one request, `{op, collection, args}`. Its answer is any number of `{progress}` and
`{batch}`, then one `{result}`, or one `{error, kind}`. Documents of the store are separate bytes in it, so
that their size is known without decoding.
"""

import asyncio
import struct
from datetime import timedelta

import bson

from shared.domain.errors import BadRequest, Misconfigured, StoreUnavailable, TooLarge
from shared.storage.codec import OPTIONS
from shared.storage.database import Document
from shared.storage.indexes import Index
from shared.storage.sqlite.engine.documents import as_bson

MOST = 48 * 1024 * 1024
"""Bytes of a frame: a document of the largest size, its change, and what goes around them."""
_LENGTH = struct.Struct(">I")
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (TooLarge, BadRequest, Misconfigured, StoreUnavailable, NotImplementedError)
}


class Garbled(Exception):
    """Something came that is no frame."""


def framed(message: Document) -> bytes:
    """A message as it goes over the socket. BadRequest for a value that no document can hold, TooLarge."""
    body = as_bson(message)
    if len(body) > MOST:
        raise TooLarge("the request is too large for the store")
    return _LENGTH.pack(len(body)) + body


async def received(reader: asyncio.StreamReader) -> Document:
    """The next message. Garbled, or IncompleteReadError where the other side has ended."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MOST:
        raise Garbled(f"a frame of {length} bytes")
    body = await reader.readexactly(length)
    try:
        message: Document = bson.decode(body, OPTIONS)
    except Exception as exc:  # bytes from outside
        raise Garbled("no BSON") from exc
    return message


def error_message(error: Exception) -> Document | None:
    """The last message of an answer that failed; None for an error that is a fault of ours."""
    for name, kind in _KINDS.items():
        if isinstance(error, kind):
            return {"error": str(error), "kind": name}
    return None


def error_of(message: Document) -> Exception:
    """The error in such a message."""
    kind = _KINDS.get(message.get("kind", ""), StoreUnavailable)
    return kind(str(message["error"]))


def index_message(index: Index) -> Document:
    """An index as it goes over the socket."""
    expire = index.expire_after
    return {
        "collection": index.collection,
        "keys": [list(key) for key in index.keys],
        "flags": [index.unique, index.sparse, index.of_array],
        "partial": index.partial,
        "replaces": index.replaces,
        "expire_seconds": None if expire is None else expire.total_seconds(),
    }


def index_of(message: Document) -> Index:
    """The index in such a message."""
    unique, sparse, of_array = message["flags"]
    expire = message["expire_seconds"]
    return Index(
        message["collection"],
        [(path, direction) for path, direction in message["keys"]],
        unique=unique,
        sparse=sparse,
        expire_after=None if expire is None else timedelta(seconds=expire),
        of_array=of_array,
        partial=message.get("partial", False),
        replaces=message.get("replaces", ""),
    )
