"""Documents as bytes: BSON, as MongoDB has them, so that both stores hold the same."""

import bson
from bson.errors import InvalidBSON, InvalidDocument

from shared.domain.errors import BadRequest, StoreUnavailable, TooLarge
from shared.storage.codec import OPTIONS
from shared.storage.database import Document
from shared.storage.sqlite.engine.connections import damage

LARGEST = 16 * 1024 * 1024
"""Bytes of a document, as in MongoDB."""


def as_bson(document: Document) -> bytes:
    """BadRequest for a value that has no place in a document."""
    try:
        blob: bytes = bson.encode(document, codec_options=OPTIONS)
    except (InvalidDocument, OverflowError, UnicodeEncodeError) as exc:
        raise BadRequest("the store cannot hold this document") from exc
    return blob


def encoded(document: Document) -> bytes:
    """A document as it is stored. BadRequest as of `as_bson`, TooLarge for one over 16 MiB."""
    blob = as_bson(document)
    if len(blob) > LARGEST:
        raise TooLarge("the document is too large for the store")
    return blob


def decoded(blob: bytes) -> Document:
    """Raises `damage` where these bytes are no document, since only we write them; StoreUnavailable for one
    that is nested too deeply."""
    try:
        document: Document = bson.decode(blob, OPTIONS)
    except InvalidBSON as exc:
        if "recursion" in str(exc):  # sound, but nested deeper than this stack goes
            raise StoreUnavailable("the store: a document is nested too deeply") from exc
        raise damage("a document is not what was written") from exc
    return document
