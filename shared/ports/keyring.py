"""How an adapter keeps a secret: encrypted when it is written, opened when it is read (docs/adr/0013)."""

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
