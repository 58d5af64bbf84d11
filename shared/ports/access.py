"""The audit log, API tokens and stored profiles (owner: commands; checkin reads the profiles)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.domain.access import AuditEntry, AuditPage, AuditQuery, Token


class AuditLog(Protocol):
    """Entries are only added; they leave when MDM_AUDIT_RETENTION is over."""

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Keep these durably, all or none. Safe to repeat. Raises StoreUnavailable."""

    async def find(self, query: AuditQuery) -> AuditPage:
        """A stable order: paging returns each entry once. Raises BadRequest for an invalid cursor."""


class Tokens(Protocol):
    """Tokens are never removed: a name keeps its meaning in the audit log."""

    async def add(self, token: Token) -> bool:
        """False: another token has, or had, its name. Safe to repeat."""

    async def all(self) -> list[Token]:
        """Every token, also revoked and expired ones, in the order of creation."""

    async def revoke(self, id: str, at: datetime) -> Token | None:
        """The revoked token; None: there is no such token. A second time changes nothing."""

    async def mark_used(self, ids: Collection[str], at: datetime) -> None:
        """Note that these were used at that time, or later."""


class Reserved(StrEnum):
    """Identifiers (MicroMDM's) under which a stored profile replaces the one that we would make."""

    ENROLL = "com.github.micromdm.micromdm.enroll"
    OTA = "com.github.micromdm.micromdm.ota"
    OTA_PHASE_2 = "com.github.micromdm.micromdm.ota.phase2"


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile as it was given: a property list, or a CMS that holds one. It may hold secrets."""

    identifier: str
    mobileconfig: bytes = field(repr=False)


class Profiles(Protocol):
    async def put(self, profile: StoredProfile) -> None:
        """Store it; it replaces the one with its identifier."""

    async def get(self, identifier: str) -> StoredProfile | None: ...

    async def page(self, after: str | None, limit: int) -> list[StoredProfile]:
        """The next ones by identifier, behind `after`."""

    async def delete(self, identifiers: Collection[str]) -> None: ...
