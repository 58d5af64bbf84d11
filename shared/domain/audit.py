"""One entry of the audit log: who did what to whom, from where, and what came of it.

Never bodies, never secrets.
"""

from dataclasses import dataclass
from datetime import datetime

MOST_TARGETS = 1000
"""Of one entry; `targets_left_out` counts the rest."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`at` is in UTC; `address` is where the request came from, `route` its method and path
    template (or the command line), `detail` what the action is about (a request type, a name),
    `status` the HTTP status that answered it, `request_id` what the client called its request."""

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
    """Which entries; None: all. `since` is included, `until` is not; `cursor` is the `next` of the
    page before."""

    since: datetime
    until: datetime
    caller: str | None = None
    action: str | None = None
    target: str | None = None
    limit: int = 100
    cursor: str | None = None

    def holds(self, entry: AuditEntry) -> bool:
        """Whether the entry is asked for."""
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
