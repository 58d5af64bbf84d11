"""Certificate status: replaced, blocked, or superseded by another renewal.

Promise: one that was replaced, whose device is blocked, or beside which another one has followed the same
certificate, gets its holder nothing new: no renewal by SCEP, no profile over the air.
"""

from dataclasses import dataclass

from shared.domain.enrollment import Enrollment
from shared.ports.certificates import IssuedCertificate, IssuedCertificates
from shared.ports.enrollments import Enrollments


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """The device for which a certificate is reserved, and the record of our SCEP."""

    fingerprint: str
    holder: Enrollment | None
    issued: IssuedCertificate | None
    is_long_retired: bool = False

    @property
    def device(self) -> str | None:
        return None if self.holder is None else self.holder.id

    @property
    def is_replaced(self) -> bool:
        if self.holder is None:
            return False
        return self.is_long_retired or self.fingerprint in self.holder.retired_certificates

    @property
    def is_for_one_device(self) -> bool:
        """True if a device holds it, or if only one device can come to hold it."""
        names = () if self.issued is None else (self.issued.udid, self.issued.serial_number)
        return self.holder is not None or any(names)

    @property
    def objection(self) -> str | None:
        """Why its holder gets nothing new, None where nothing is against it."""
        if self.holder is None:
            return None
        if self.is_replaced or self.holder.blocked:
            return "the certificate was replaced, or its device is blocked"
        bound = self.holder.certificate
        follows = None if self.issued is None else self.issued.renewed_from
        if follows is not None and bound not in (None, self.fingerprint, follows):
            return "another certificate has followed the one before it"
        return None


class CertificateStatuses:
    """Looks certificates up. Raises StoreUnavailable."""

    def __init__(self, enrollments: Enrollments, issued: IssuedCertificates) -> None:
        self._enrollments = enrollments
        self._issued = issued

    async def of(self, fingerprint: str) -> CertificateStatus:
        holders = await self._enrollments.holders([fingerprint])
        device = holders.get(fingerprint)
        record = None if device is None else (await self._enrollments.load([device])).get(device)
        issued = await self._issued.by_fingerprint([fingerprint])
        retired = await self._enrollments.long_retired([fingerprint])
        return CertificateStatus(
            fingerprint, record, issued.get(fingerprint), fingerprint in retired
        )
