"""Documents as bytes: BSON, as MongoDB has them, so that both stores hold the same."""

from datetime import UTC

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument

from shared.domain.errors import BadRequest, TooLarge
from shared.storage.database import Document

_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True, tzinfo=UTC)
LARGEST = 16 * 1024 * 1024
"""Bytes of a document, as in MongoDB."""


def encoded(document: Document) -> bytes:
    """BadRequest for a value that has no place in a document, TooLarge for a document over 16 MiB."""
    try:
        blob: bytes = bson.encode(document, codec_options=_OPTIONS)
    except (InvalidDocument, OverflowError, UnicodeEncodeError) as exc:
        raise BadRequest("the store cannot hold this document") from exc
    if len(blob) > LARGEST:
        raise TooLarge("the document is too large for the store")
    return blob


def decoded(blob: bytes) -> Document:
    document: Document = bson.decode(blob, _OPTIONS)
    return document
