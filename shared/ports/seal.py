"""How an adapter keeps a secret: sealed when it is written, opened when it is read (docs/adr/0013)."""

from typing import Protocol


class Seal(Protocol):
    """Keys that close and open what the store keeps; `shared.security.sealing.Sealer` is one.

    `context` says where the value stands, as "collection/id/field". A sealed value opens only under
    the context that it was sealed for, so that nobody can move it to another record.
    """

    def seal(self, plain: bytes, context: str) -> bytes:
        """The value as it is to be stored: closed with the first key, differing each time; or as it is,
        where nothing is sealed (`current` is None)."""

    def open(self, sealed: bytes, context: str) -> bytes:
        """The value in clear. What earlier versions stored in clear comes back as it is.

        Raises CannotOpen when it was sealed with a key that we do not have, or altered, or moved.
        """

    def key_of(self, sealed: bytes) -> str | None:
        """The id of the key that closed it, None for a value in clear."""

    @property
    def current(self) -> str | None:
        """The id of the key that closes what is sealed now, None while nothing is."""
