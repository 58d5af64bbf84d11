"""Encryption of secrets at rest, and the rotation of its keys (docs/adr/0013)."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class Keyring(Protocol):
    """Encrypts secrets at rest. `context` is the location of the value, "collection/id/field": it can be
    decrypted only under the context of its encryption, so that it cannot be moved to another record."""

    def encrypt(self, plain: bytes, context: str) -> bytes:
        """The value to store: encrypted with the first key, differently each time; or unchanged, where
        nothing is encrypted (`current` is None)."""

    def decrypt(self, encrypted: bytes, context: str) -> bytes:
        """The value in clear, also where an earlier version stored it so. Raises CannotDecrypt where it was
        altered, moved, or encrypted with a key that we lack."""

    def key_of(self, encrypted: bytes) -> str | None:
        """The id of the key that encrypted it, None for a value in clear."""

    @property
    def current(self) -> str | None:
        """The id of the key that encrypts, None while nothing is encrypted."""


KeyCount = Counter[str | None]
"""Counts of values by the id of their key; None: in clear."""


class EncryptedValues(Protocol):
    @property
    def current(self) -> str | None:
        """The id of the key that encrypts; None: values are stored in clear."""

    @property
    def collections(self) -> Sequence[str]: ...

    def batches(self, collection: str) -> AsyncIterator[list[str]]:
        """The ids of documents that may hold encrypted values, a bounded number at a time."""

    async def reencrypt(self, collection: str, ids: Sequence[str]) -> int:
        """Re-encrypt with the current key the values of these documents under another key, or in clear; the
        number of them. Values that change meanwhile are read again; those that cannot be decrypted stay."""

    async def count(self, collection: str, ids: Sequence[str]) -> KeyCount: ...
