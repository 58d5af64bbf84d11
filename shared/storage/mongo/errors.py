"""Errors of MongoDB's driver become ours, and no cancellation is lost in it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from bson.errors import InvalidDocument
from pymongo.errors import (
    BulkWriteError,
    DocumentTooLarge,
    DuplicateKeyError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from shared.domain.errors import BadRequest, StoreUnavailable, TooLarge
from shared.network.connection_failures import NO_ANSWER, Peer, closed, reason_of

DUPLICATE_KEY = 11000
_PEER = Peer("MDM_MONGODB_URL", "the parameter tlsCAFile of MDM_MONGODB_URL", "tls=true")
_SAID = {
    "AuthenticationFailed": "it refuses the user or the password in MDM_MONGODB_URL",
    "Unauthorized": "the user in MDM_MONGODB_URL may not do this (Unauthorized)",
}
# Of a failed connection the driver keeps no more than a text. The first piece that is in it counts.
_MEANS = {
    "timed out": NO_ANSWER,
    "connection closed": closed(_PEER),
    "handshake failed": closed(_PEER),
    "response id": "what answers there is no MongoDB",
    "essage length": "what answers there is no MongoDB",
    "rimary": "no primary answers",
}
OBJECT_TOO_LARGE = {10334, 17419, 17420}  # inserted; after an update; by an upsert
_TOO_LARGE = "the document is too large for the store"


@contextmanager
def driver_errors() -> Iterator[None]:
    """Around calls of the driver: its exceptions become ours; duplicate keys and bulk errors pass.

    `asyncio.wait_for` of Python 3.11, which PyMongo's client uses, swallows a cancellation that comes in the
    moment of its result; the task still counts it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except (DuplicateKeyError, BulkWriteError):
        raise
    except DocumentTooLarge as exc:
        raise TooLarge(_TOO_LARGE) from exc
    except InvalidDocument as exc:
        raise BadRequest("the store cannot hold this document") from exc
    except PyMongoError as exc:
        if isinstance(exc, OperationFailure) and exc.code in OBJECT_TOO_LARGE:
            raise TooLarge(_TOO_LARGE) from exc
        raise StoreUnavailable(f"MongoDB: {_reason(exc)}") from exc
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def _reason(error: PyMongoError) -> str:
    if isinstance(error, OperationFailure | NotPrimaryError):
        name = (error.details or {}).get("codeName") if isinstance(error.details, dict) else None
        return _SAID.get(str(name)) or (f"it said {name}" if name else "it refused the operation")
    if found := reason_of(error, _PEER):
        return found
    words = (said for piece, said in _MEANS.items() if piece in str(error))
    return next(words, NO_ANSWER if error.timeout else "it did not do what it was asked")


@contextmanager
def taken_keys_are_faults() -> Iterator[None]:
    """Around an update, which does not report the duplicate key."""
    try:
        yield
    except DuplicateKeyError as exc:
        raise StoreUnavailable("MongoDB: a key is taken") from exc


def duplicates(error: BulkWriteError) -> set[int]:
    """Indexes of the operations that have a duplicate key; raises TooLarge where a document was, and
    StoreUnavailable for any other fault."""
    details = error.details
    others = {e.get("code") for e in details.get("writeErrors", ())} - {DUPLICATE_KEY}
    if others & OBJECT_TOO_LARGE:
        raise TooLarge(_TOO_LARGE) from error
    if others or details.get("writeConcernErrors"):
        raise StoreUnavailable("MongoDB: bulk write failed") from error
    return {e["index"] for e in details["writeErrors"]}
