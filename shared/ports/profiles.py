"""Configuration profiles that the operator keeps with us (owner: commands; checkin reads)."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


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
        """Store it, in the place of the one with its identifier."""

    async def get(self, identifier: str) -> StoredProfile | None: ...

    async def page(self, after: str | None, limit: int) -> list[StoredProfile]:
        """The next ones by identifier, from behind `after` on."""

    async def delete(self, identifiers: Collection[str]) -> None:
        """Those that are not there are no error."""
