"""What a client asks of a command besides the command itself: when, before whom, instead of what."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Terms:
    """All None: the client asked for nothing in particular.

    `priority`: 0 is sent first, 9 last. `expires_at` or `ttl` (counted from acceptance): from
    then on the command is not sent any more. `not_before`: until then it is not sent.
    `collapse_key`: of the commands of one queue with the same one, the newest replaces those that
    were not sent yet. Times know their offset.
    """

    priority: int | None = None
    expires_at: datetime | None = None
    ttl: timedelta | None = None
    not_before: datetime | None = None
    collapse_key: str | None = None

    def expiry(self, accepted_at: datetime) -> datetime | None:
        """When a command that is accepted at this time expires, None: never."""
        if self.expires_at is not None:
            return self.expires_at
        return None if self.ttl is None else accepted_at + self.ttl
