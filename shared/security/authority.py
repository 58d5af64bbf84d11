"""Our own certificate authority, which issues device identities.

Promise: an installation has one, made by exactly one process and the same for all (the store's
`create` decides), and no key ever shows in a repr. RSA, which every device and SCEP client can use.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.domain.errors import BadRequest, CannotDecrypt, Misconfigured
from shared.ports.certificates import AuthorityStore, StoredAuthority
from shared.ports.clock import Clock
from shared.security.certificates.public_keys import PublicKey

AUTHORITY_VALIDITY = timedelta(days=3650)
IDENTITY_VALIDITY = timedelta(days=365)
CLOCK_SKEW = timedelta(hours=1)
"""Certificates begin that much in the past, for devices whose clock is late."""
KEY_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Issued:
    """A device identity with a key that was made here."""

    certificate: x509.Certificate
    key_pem: bytes = field(repr=False)


class Authority:
    """A CA certificate and its key."""

    def __init__(self, certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, clock: Clock) -> "Authority":
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_SIZE)
        name, now = _name("MacroMDM Device CA"), clock.now()
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _builder(name, name, key.public_key(), now, is_ca=True)
            .not_valid_after(now + AUTHORITY_VALIDITY)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def restore(cls, stored: StoredAuthority) -> "Authority":
        """The one that was stored, or Misconfigured: without it no device of ours can be served."""
        try:
            certificate = x509.load_pem_x509_certificate(stored.certificate_pem)
            key = serialization.load_pem_private_key(stored.key_pem, password=None)
        except (ValueError, TypeError):
            raise Misconfigured("the stored CA cannot be read") from None
        if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != certificate.public_key():
            raise Misconfigured("the stored CA's key is not that of its certificate")
        return cls(certificate, key)

    def stored(self) -> StoredAuthority:
        return StoredAuthority(self.certificate_pem, _key_pem(self._key))

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, clock: Clock) -> Issued:
        """A device identity. Raises BadRequest for a name that no certificate can hold."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_SIZE)
        certificate = self.certify(_name(name), key.public_key(), clock, IDENTITY_VALIDITY)
        return Issued(certificate, _key_pem(key))

    def certify(
        self, subject: x509.Name, public_key: PublicKey, clock: Clock, validity: timedelta
    ) -> x509.Certificate:
        """A certificate for a device's key: for clients, never for a CA. Never outlives our CA."""
        now = clock.now()
        ours = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(subject, self.certificate.subject, public_key, now, is_ca=False)
            .not_valid_after(min(now + validity, self.certificate.not_valid_after_utc))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ours), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    def sign(self, message: bytes) -> bytes:
        """RSA PKCS #1 v1.5 with SHA-256, for SCEP's answers."""
        return self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def decrypt(self, wrapped: bytes, scheme: padding.AsymmetricPadding) -> bytes:
        """Unwrap a key of a SCEP request; may raise ValueError, or give some other key, where it was not
        wrapped for ours."""
        return self._key.decrypt(wrapped, scheme)

    def derived_key(self, purpose: str, size: int) -> bytes:
        """A key for something else, the same on all replicas (HKDF, RFC 5869); it reveals nothing of ours,
        nor of that for another purpose."""
        return HKDF(hashes.SHA256(), size, salt=None, info=purpose.encode()).derive(
            self._key.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


async def open_authority(store: AuthorityStore, clock: Clock) -> Authority:
    """The installation's CA; made now if there is none yet, and then the same for all processes.

    Misconfigured where its key cannot be opened: no process serves with a wrong MDM_SECRET_KEY."""
    try:
        stored = await store.load()
        if stored is None:
            stored = await store.create(Authority.create(clock).stored())
    except CannotDecrypt as exc:
        raise Misconfigured(f"MDM_SECRET_KEY: does not open what the store holds: {exc}") from None
    return Authority.restore(stored)


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    except ValueError as exc:
        raise BadRequest("name: expected 1 to 64 characters") from exc


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, now: datetime, *, is_ca: bool
) -> x509.CertificateBuilder:
    """A CA signs certificates; a device signs messages, and SCEP encrypts to it."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
    )


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
