"""Encryption of secrets at rest, and the rotation of its keys (docs/adr/0013)."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class Keyring(Protocol):
    """Keys that close and open what the store keeps; `shared.security.encryption.AesKeyring` is one.

    `context` says where the value stands, as "collection/id/field". An encrypted value opens only under
    the context that it was encrypted for, so that nobody can move it to another record.
    """

    def encrypt(self, plain: bytes, context: str) -> bytes:
        """The value as it is to be stored: closed with the first key, differing each time; or as it is,
        where nothing is encrypted (`current` is None)."""

    def decrypt(self, encrypted: bytes, context: str) -> bytes:
        """The value in clear. What earlier versions stored in clear comes back as it is.

        Raises CannotDecrypt when it was encrypted with a key that we do not have, or altered, or moved.
        """

    def key_of(self, encrypted: bytes) -> str | None:
        """The id of the key that closed it, None for a value in clear."""

    @property
    def current(self) -> str | None:
        """The id of the key that closes what is encrypted now, None while nothing is."""


KeyCount = Counter[str | None]
"""How many values stand under each key id; None: in clear."""


class EncryptedValues(Protocol):
    @property
    def current(self) -> str | None:
        """The id of the key that closes now; None: values are to stand in clear."""

    @property
    def collections(self) -> Sequence[str]:
        """Where encrypted values are."""

    def batches(self, collection: str) -> AsyncIterator[list[str]]:
        """The ids of documents that may hold encrypted values, a bounded number at a time."""

    async def reencrypt(self, collection: str, ids: Sequence[str]) -> int:
        """Re-encrypt with the current key what these documents hold under another one, or in clear; how many
        values were. What changes meanwhile is looked at again; what cannot be opened stays as it is."""

    async def count(self, collection: str, ids: Sequence[str]) -> KeyCount:
        """Under which keys the values of these documents stand."""
