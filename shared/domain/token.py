"""A named token of the API: who made it, what it may do, until when. The secret itself is kept by
its owner only; we keep its hash.

The secret has 256 random bits, so a plain SHA-256 cannot be searched back, and looking it up by
its hash tells nothing of it by the time it takes.
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime

from shared.domain.caller import Caller, Scope

PREFIX = "mdm_"
"""Every secret begins so: scanners of repositories find it, and other passwords are not looked up."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = re.compile(r"api-key.*|command-line|device", re.IGNORECASE)


def is_token_name(name: str) -> bool:
    """Whether a token may have this name, which the audit log shows for what it does; the names of
    callers without a token are not free."""
    return _NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None


def digest_of(secret: bytes) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret).hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """One token; times are in UTC. `last_used_at` lags by up to an hour."""

    id: str
    name: str
    digest: str = field(repr=False)
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it lets in: neither revoked nor past its time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def caller(self) -> Caller:
        return Caller(self.name, self.scopes)
