"""Refused messages of a device, kept in its record (owner: checkin)."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.domain.enrollment import Refusal


class Refusals(Protocol):
    async def add(self, refusals: Mapping[str, Sequence[Refusal]]) -> None:
        """Add to those of these devices, as `latest_refusals` does. Never makes a record, and changes none of
        a removed device. Done again, it changes nothing. Raises Unavailable, and TooLarge for a record that
        cannot grow: then others may lack theirs too."""
