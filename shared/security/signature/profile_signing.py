"""Signs profiles, so that a device shows who they are from.

Promise: a signed profile is a CMS (DER) that holds the profile unchanged, signed with SHA-256. A pair that
cannot sign is refused at the start; one that has expired is only logged: an unverified profile still enrolls.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from shared.domain.errors import Misconfigured
from shared.security.certificates.lenient import UNREADABLE
from shared.settings.values import read_file

log = structlog.get_logger()

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class ProfileSigner:
    """A certificate, its key and its chain."""

    def __init__(self, certificates: Sequence[x509.Certificate], key: SigningKey) -> None:
        self._certificate, *self._chain = certificates
        self._key = key

    @classmethod
    def load(cls, certificate_file: Path, key_file: Path) -> "ProfileSigner":
        """Read two PEM files, the first with the chain. Raises Misconfigured, which names the setting."""
        pem = read_file("MDM_PROFILE_CERT", certificate_file)
        try:
            certificates = x509.load_pem_x509_certificates(pem)
        except UNREADABLE:
            raise Misconfigured(
                f"MDM_PROFILE_CERT: {certificate_file} holds no PEM certificate"
            ) from None
        key = _key(key_file)
        if key.public_key() != certificates[0].public_key():
            raise Misconfigured(
                f"MDM_PROFILE_KEY: {key_file} is not the key of the first certificate in "
                f"{certificate_file}"
            )
        return cls(certificates, key)

    def sign(self, profile: bytes) -> bytes:
        builder = (
            pkcs7.PKCS7SignatureBuilder()
            .set_data(profile)
            .add_signer(self._certificate, self._key, hashes.SHA256())
        )
        for certificate in self._chain:
            builder = builder.add_certificate(certificate)
        # Binary: a text's line ends would be rewritten.
        return builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])

    def warn_of_expiry(self, now: datetime) -> None:
        not_after = self._certificate.not_valid_after_utc
        if now >= not_after:
            log.warning("profile_certificate_expired", not_after=not_after.isoformat())


def _key(file: Path) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(read_file("MDM_PROFILE_KEY", file), password=None)
    except TypeError:
        raise Misconfigured(
            f"MDM_PROFILE_KEY: {file} is encrypted; store it without a passphrase"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Misconfigured(f"MDM_PROFILE_KEY: {file} holds no PEM private key") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Misconfigured(f"MDM_PROFILE_KEY: {file} must be an RSA or EC key")
    return key
