"""Certificates that requests show: their devices, and the records of our SCEP."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.domain.enrollment import Enrollment
from shared.ports.certificates import IssuedCertificate


@dataclass(frozen=True, slots=True)
class Known:
    """The result of a look-up: certificate -> device, and certificate -> record."""

    holders: Mapping[str, str]
    issued: Mapping[str, IssuedCertificate]
    long_retired: frozenset[str] = frozenset()

    def beside(self, other: "Known") -> "Known":
        """Both together."""
        return Known(
            {**self.holders, **other.holders},
            {**self.issued, **other.issued},
            self.long_retired | other.long_retired,
        )

    def is_retired(self, certificate: str, device: Enrollment | None) -> bool:
        """True if the certificate was the device's and was replaced."""
        if device is None:
            return False
        is_holder = self.holders.get(certificate) == device.id
        is_long = is_holder and certificate in self.long_retired
        return is_long or certificate in device.retired_certificates
