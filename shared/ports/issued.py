"""Certificates that our CA gave out by SCEP (owner: checkin)."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One certificate, and what allowed it.

    `transaction` is how it was asked for, and decides races: a transaction has one certificate.
    `fingerprint` is the SHA-256 of the certificate, `public_key` that of its key, `serial` its serial
    number, all in hex. `udid` and `serial_number` are what the challenge was bound to (never what the
    client says of itself), `challenge` names a one-time challenge. `renewed_from` is the fingerprint of
    the certificate that it follows: its key signed the renewal, or the challenge was made to renew it. A
    renewal inherits `udid` and `serial_number`.
    """

    transaction: str
    fingerprint: str
    serial: str
    certificate: bytes = field(repr=False)
    subject: str
    public_key: str
    issued_at: datetime
    not_after: datetime
    challenge: str | None = None
    udid: str | None = None
    serial_number: str | None = None
    renewed_from: str | None = None


class IssuedCertificates(Protocol):
    async def add(self, issued: IssuedCertificate) -> bool:
        """Record it, unless its transaction has one. False: it has (this one or another), or the
        certificate's serial number is taken; then this one must not be given out."""

    async def of_transaction(self, transaction: str) -> IssuedCertificate | None: ...

    async def by_fingerprint(self, fingerprints: Collection[str]) -> dict[str, IssuedCertificate]:
        """Those of these fingerprints that SCEP gave out."""

    async def renewals_of(self, fingerprint: str) -> list[IssuedCertificate]:
        """Those that were given out to follow this one, the first issued first."""
