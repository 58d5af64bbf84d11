"""Is this the certificate that an Apple device was made with?

Promise: `vouches` says yes only if one of the CAs in MDM_OTA_DEVICE_CA signed the certificate itself.
What is signed with its key was then said by a genuine device, which does not lie about its UDID and
serial number unless somebody broke into its system.

What is not checked, and why: validity. Apple's iPhone Device CA expired in 2014, and devices show
certificates of it to this day. Nor intermediate certificates: devices of different systems send
different ones, in part none, so the CA in the file is the one that signs devices, not its root.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from shared.domain.errors import Misconfigured
from shared.security.lenient.certificate import UNREADABLE

MOST_OF_ONE_NAME = 4
"""CAs of one name whose keys are tried on a device's certificate."""


class AppleDevices:
    """Judges certificates by the CAs of a file; without CAs it vouches for nobody."""

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
        """True if there is any CA to judge by."""
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
    """As `verify_directly_issued_by`, which takes no SHA-1: what Apple's CA signs devices with."""
    key = authority.public_key()
    try:
        if leaf.public_key() == key:
            return False  # a CA is no device, though it may have signed itself
        hash_ = leaf.signature_hash_algorithm
        if hash_ is None:
            return False
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(leaf.signature, leaf.tbs_certificate_bytes, padding.PKCS1v15(), hash_)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(hash_))
        else:
            return False
    except (InvalidSignature, *UNREADABLE):
        return False
    return True
