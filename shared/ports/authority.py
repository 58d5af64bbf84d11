"""Our own CA (owner: checkin)."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """Our CA as it is kept: certificate and private key, each in PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


class AuthorityStore(Protocol):
    async def load(self) -> StoredAuthority | None:
        """The installation's CA, None before there is one."""

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        """Store it if there is none yet; returns what is there then, the same for everybody."""
