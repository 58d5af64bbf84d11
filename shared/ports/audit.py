"""The audit log (owner: commands; every service with an API writes)."""

from collections.abc import Sequence
from typing import Protocol

from shared.domain.audit import AuditEntry, AuditPage, AuditQuery


class AuditLog(Protocol):
    """Entries are only added; they leave when MDM_AUDIT_RETENTION is over."""

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Keep these durably, all or none. Safe to repeat. Raises StoreUnavailable."""

    async def find(self, query: AuditQuery) -> AuditPage:
        """Those that the query holds, in an order that stays; paging sees each of them once.
        Raises BadRequest for a cursor that nobody gave."""
