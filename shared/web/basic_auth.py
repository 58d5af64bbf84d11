"""Basic authentication of API clients, as MicroMDM does it: user `micromdm`, password the API key.

Several keys may be good at once, for rotation. Comparing takes the same time whether and where a
key differs, and however many keys there are.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Request
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from pydantic import SecretStr

from shared.domain.errors import Unauthenticated

USER = b"micromdm"


class BasicAuth(SecurityBase):
    """A dependency of API routes: `APIRouter(dependencies=[Depends(BasicAuth(keys))])`."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self.model = HTTPBase(scheme="basic")
        self.scheme_name = "API key"
        self._digests = [_digest(USER, key.get_secret_value().encode()) for key in keys]

    async def __call__(self, request: Request) -> None:
        """Raises Unauthenticated unless the request carries one of the keys."""
        if not self.accepts(request.headers.get("authorization")):
            raise Unauthenticated("Unauthorized")

    def accepts(self, authorization: str | None) -> bool:
        """Whether this Authorization header carries one of the keys."""
        given = _digest(*_credentials(authorization or ""))
        good = False
        for digest in self._digests:
            good |= hmac.compare_digest(digest, given)
        return good


def _credentials(authorization: str) -> tuple[bytes, bytes]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return b"", b""
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b"", b""
    return (user, password) if colon else (b"", b"")


def _digest(user: bytes, password: bytes) -> bytes:
    """Equal lengths whatever was given, so that comparing tells nothing of the key's."""
    return hashlib.sha256(hashlib.sha256(user).digest() + password).digest()
