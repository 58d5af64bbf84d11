"""Secrets at rest: AES-256-GCM with keys of the operator, so that the store never sees them.

An encrypted value is: 8 bytes of prefix, 8 of key id (hex), 12 of random nonce, ciphertext, 16 of tag.
Prefix, key id and context are authenticated with it (docs/adr/0013). A key's id comes from the key
itself, so that one id never means two keys, and says nothing about it. A random nonce of 96 bits serves up
to 2**32 values of one key (NIST SP 800-38D, 8.3); docs/security.md says when to rotate.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.domain.errors import CannotDecrypt

KEY_SIZE = 32
PREFIX = b"\xf5SEALED1"
"""Begins no text (0xF5 is not in UTF-8), plist or PEM; in a random token it is one chance in 2**64."""

_ID = 8
_HEADER = len(PREFIX) + _ID
_NONCE = 12
_TAG = 16


class AesKeyring:
    """Implements `shared.ports.keyring.Keyring`. The first key encrypts, every key decrypts."""

    def __init__(self, keys: Sequence[bytes], *, encrypts: bool = True) -> None:
        """`keys`: at least one, each of 32 random bytes; ValueError otherwise. Without `encrypts` values
        stay in clear and encrypted ones open: for a rollout beside a version that cannot decrypt."""
        if not keys or any(len(key) != KEY_SIZE for key in keys):
            raise ValueError("expected keys of 32 bytes")
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self._first = key_id(keys[0])
        self._header = PREFIX + self._first.encode()
        self._encrypts = encrypts

    def __repr__(self) -> str:
        return f"AesKeyring({', '.join(self._ciphers)})"

    @property
    def current(self) -> str | None:
        return self._first if self._encrypts else None

    def encrypt(self, plain: bytes, context: str) -> bytes:
        if not self._encrypts:
            return plain
        nonce = os.urandom(_NONCE)
        cipher = self._ciphers[self._first]
        return self._header + nonce + cipher.encrypt(nonce, plain, self._header + context.encode())

    def decrypt(self, encrypted: bytes, context: str) -> bytes:
        key = self.key_of(encrypted)
        if key is None:
            return bytes(encrypted)
        if (cipher := self._ciphers.get(key)) is None:
            raise CannotDecrypt(
                f"{context}: is encrypted with the key {key}, which MDM_SECRET_KEY lacks"
            )
        header, rest = encrypted[:_HEADER], encrypted[_HEADER:]
        if len(rest) >= _NONCE + _TAG:
            with suppress(InvalidTag):  # raised below without the cause
                return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], header + context.encode())
        raise CannotDecrypt(f"{context}: what the key {key} encrypted was altered, or moved here")

    def key_of(self, encrypted: bytes) -> str | None:
        if not encrypted.startswith(PREFIX):
            return None
        return encrypted[len(PREFIX) : _HEADER].decode("ascii", "backslashreplace")


def key_id(key: bytes) -> str:
    """The name of a key in messages and encrypted values: 8 hex digits, made from the key."""
    return hashlib.sha256(b"MacroMDM key id\0" + key).hexdigest()[:_ID]
