"""What stands encrypted in the store, for the rotation of keys; no service needs it."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

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
