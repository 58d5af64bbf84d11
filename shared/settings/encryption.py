"""The setting of the keys with which secrets are encrypted in the store (docs/security.md)."""

import base64
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, SecretStr

from shared.settings.values import PLACEHOLDERS, secret_text

SIZE = 32
"""Bytes of a key."""

MAKE_KEY = "openssl rand -base64 32"

NEEDS_SECRET_KEY = (
    "MDM_SECRET_KEY: is not set, and MDM_MONGODB_URL needs it: secrets are encrypted in the store. "
    f"Make one, the same for all services: {MAKE_KEY}"
)

_CLEAR = "clear"
"""The first word of MDM_SECRET_KEY while nothing is encrypted."""


def secret_keys(text: str) -> tuple[tuple[bytes, ...], bool]:
    """The keys of MDM_SECRET_KEY, and whether the first one encrypts: not where `clear` comes first."""
    words = text.replace(",", " ").split()
    encrypts = words[:1] != [_CLEAR]
    return tuple(_decoded(word) for word in words[0 if encrypts else 1 :]), encrypts


def _decoded(word: str) -> bytes:
    try:
        key = base64.b64decode(
            word, altchars=b"-_" if {"-", "_"} & set(word) else None, validate=True
        )
    except ValueError:
        key = b""
    if len(key) != SIZE:
        raise ValueError(f"must be 32 random bytes in base64, such as of `{MAKE_KEY}`")
    return key


def _secret_key(value: Any) -> str:
    text = secret_text(value).strip()
    if any(placeholder in text.lower() for placeholder in PLACEHOLDERS):
        raise ValueError(f"is the placeholder of the example; make a key: {MAKE_KEY}")
    keys, _ = secret_keys(text)
    if not keys:
        raise ValueError(f"names no key; make one: {MAKE_KEY}")
    return text


SecretKey = Annotated[SecretStr, BeforeValidator(_secret_key)]


class EncryptionSettings(BaseModel):
    secret_key: SecretKey | None = Field(
        None,
        description="Key with which secrets are encrypted in the store: 32 random bytes in base64. "
        "Several separated by commas all open, the first one encrypts (docs/security.md). Needed with "
        "MDM_MONGODB_URL; with the embedded store one is made in MDM_DATA_DIR.",
    )

    @property
    def secret_keys(self) -> tuple[tuple[bytes, ...], bool]:
        """The keys, the encryption one first, and whether anything is encrypted at all; no keys only where
        the embedded store is to have its own."""
        if self.secret_key is None:
            return (), True
        return secret_keys(self.secret_key.get_secret_value())
