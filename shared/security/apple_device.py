"""Certificates that Apple devices are made with.

Promise: `vouches` says yes only if one of the CAs in MDM_OTA_DEVICE_CA signed the certificate itself. A
statement signed with its key then comes from a genuine device, whose UDID and serial number are true unless
its system was broken into.

Validity is not checked: Apple's iPhone Device CA expired in 2014, and devices show certificates of it to this
day. Nor are intermediate certificates: devices of different systems send different ones, in part none, so the
CA in the file is the one that signs devices, not its root.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding

from shared.domain.errors import Misconfigured
from shared.security.certificates.lenient import UNREADABLE
from shared.security.certificates.public_keys import check_signed

MOST_OF_ONE_NAME = 4
"""CAs of one name whose keys are tried on a device's certificate."""


class AppleDevices:
    """Judges certificates by the CAs of a file; without CAs it vouches for none."""

    def __init__(self, authorities: Sequence[x509.Certificate] = ()) -> None:
        self._authorities = tuple(authorities)

    @classmethod
    def load(cls, pem: bytes) -> "AppleDevices":
        """Read the content of MDM_OTA_DEVICE_CA. Raises Misconfigured."""
        try:
            return cls(x509.load_pem_x509_certificates(pem))
        except ValueError:
            raise Misconfigured("MDM_OTA_DEVICE_CA holds no readable PEM certificates") from None

    @property
    def are_known(self) -> bool:
        return bool(self._authorities)

    def vouches(self, certificate: bytes) -> bool:
        """True if one of the CAs signed this certificate (DER)."""
        try:
            leaf = x509.load_der_x509_certificate(certificate)
        except UNREADABLE:
            return False
        above = [each for each in self._authorities if each.subject == leaf.issuer]
        return any(_signed(leaf, authority) for authority in above[:MOST_OF_ONE_NAME])


def _signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    try:
        if isinstance(leaf.signature_algorithm_parameters, padding.PSS):  # Apple's CA signs none
            return False
        check_signed(leaf, leaf.tbs_certificate_bytes, key)
        return leaf.public_key() != key  # a CA is no device, though it may have signed itself
    except (InvalidSignature, *UNREADABLE):
        return False
