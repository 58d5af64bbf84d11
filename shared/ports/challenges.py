"""SCEP challenges: who may get a certificate (owner: checkin; commands creates them too)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that is good for one certificate, until `expires_at`.

    `digest` is the SHA-256 of the secret, in hex: the secret itself is kept nowhere. `udid` and
    `serial_number` name the one device that it is for; without them it is for any device. `renews` is the
    fingerprint of the certificate that the new one is to follow.
    """

    digest: str
    expires_at: datetime
    udid: str | None = None
    serial_number: str | None = None
    renews: str | None = None


class Challenges(Protocol):
    async def create(self, challenge: Challenge) -> None:
        """Store a challenge that nobody has used; one that is stored already stays as it is."""

    async def use(self, digest: str, by: str, now: datetime) -> Challenge | None:
        """Give the challenge to the transaction `by`, once for all replicas. The same transaction
        gets it again, so that it can be repeated. None: there is none, another transaction used it,
        or it has expired."""

    async def take(self, challenge: Challenge, by: str) -> bool:
        """The same for one that nobody stored: it is stored now, as used by `by`. Whoever asks has seen
        that it has not expired."""

    async def user_of(self, digest: str) -> str | None:
        """The transaction that used it, also after it expired; None: none did, or there is none."""
