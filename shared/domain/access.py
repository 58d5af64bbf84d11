"""API clients, their scopes and tokens, and the audit log of their changes.

Promises: an audit entry never holds a body or a secret. Only the hash of a token is kept; the secret has 256
random bits, so a plain SHA-256 cannot be searched back, and a look-up by the hash leaks nothing by its time.
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

MOST_TARGETS = 1000
"""Targets in one entry; `targets_left_out` counts the rest."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`address`: of the client. `route`: method and path template, or the command line. `detail`: a request
    type or a name. `status`: the HTTP status of the answer. `request_id`: chosen by the client."""

    id: str
    at: datetime
    caller: str
    address: str
    route: str
    action: str
    status: int
    targets: tuple[str, ...] = ()
    targets_left_out: int = 0
    detail: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """`since` is included, `until` is not; None matches all; `cursor` is the `next` of the page before."""

    since: datetime
    until: datetime
    caller: str | None = None
    action: str | None = None
    target: str | None = None
    limit: int = 100
    cursor: str | None = None

    def holds(self, entry: AuditEntry) -> bool:
        return (
            self.since <= entry.at < self.until
            and self.caller in {None, entry.caller}
            and self.action in {None, entry.action}
            and (self.target is None or self.target in entry.targets)
        )


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the latest written first. `next` leads on; None: there are no more."""

    entries: tuple[AuditEntry, ...]
    next: str | None = None


class Scope(StrEnum):
    """`ADMIN` includes all others, which include no other: a program that queues commands and looks at
    devices has `READ` and `COMMANDS`."""

    READ = "read"
    """See devices, queues and settings; never what unlocks a device."""
    COMMANDS = "commands"
    """Queue, cancel and clear commands."""
    PUSH = "push"
    """Wake devices."""
    ADMIN = "admin"
    """Everything: remove and block devices, tokens, settings, secrets, the audit log."""


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of the API that has shown who it is; `name` may be shown and logged."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


PREFIX = "mdm_"
"""Every secret begins so: scanners of repositories find it, and other passwords are not looked up."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = re.compile(r"api-key.*|command-line|device", re.IGNORECASE)


def is_token_name(name: str) -> bool:
    """False also for the names by which the audit log shows callers without a token."""
    return _NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None


def token_digest(secret: bytes) -> str:
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
        """True while it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def caller(self) -> Caller:
        return Caller(self.name, self.scopes)
