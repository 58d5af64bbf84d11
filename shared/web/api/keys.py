"""Keys of the API as settings give them, with Basic authentication as MicroMDM does it: user
`micromdm`, password the API key.

Several keys may be good at once, for rotation. Comparing takes the same time whether and where a
key differs, and however many keys there are.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from shared.domain.access import ALL_SCOPES, Caller

USER = b"micromdm"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The content of an Authorization header; `user` is None in a Bearer header (RFC 6750)."""

    user: bytes | None
    secret: bytes = field(repr=False)


def read_credentials(authorization: str | None) -> Credentials | None:
    """The credentials of a Basic (RFC 7617) or Bearer header; None where there are none."""
    scheme, _, given = (authorization or "").partition(" ")
    given = given.strip()
    if scheme.lower() == "bearer":
        return Credentials(None, given.encode()) if given.isascii() and given else None
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(given, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return Credentials(user, password) if colon else None


class ApiKeys:
    """The keys of MDM_API_KEY. Each gives every scope."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._digests = [_digest(USER, key.get_secret_value().encode()) for key in keys]
        names = ["api-key", *(f"api-key-{number}" for number in range(2, len(keys) + 1))]
        self._callers = [Caller(name, ALL_SCOPES) for name in names]

    def caller(self, given: Credentials) -> Caller | None:
        """The name of the caller: `api-key` for the first key, `api-key-2` for the second; None: no key."""
        digest = _digest(given.user or b"", given.secret)
        found = None
        for index, good in enumerate(self._digests):
            if hmac.compare_digest(good, digest):
                found = self._callers[index]
        return found


def _digest(user: bytes, password: bytes) -> bytes:
    """Digests have equal lengths, so that a comparison does not reveal the key's."""
    return hashlib.sha256(hashlib.sha256(user).digest() + password).digest()
