"""Certificates around APNs, made for tests: its server's, and push certificates as Apple issues them.

Promise: what `issue` writes can be used for MDM_PUSH_CERT and MDM_PUSH_KEY as it is, and `ca.pem` for
MDM_APNS_CA.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TOPIC = "com.apple.mgmt.External.test"
YEAR = timedelta(days=365)
CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fake APNs CA")])


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class PushAuthority:
    """A CA that plays Apple's, with its files in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            _builder(CA_NAME, self._key, now - YEAR, now + 10 * YEAR)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                critical=True,
            )
            .add_extension(_own_id(self._key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        topic: str | None = TOPIC,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        name: str = "",
    ) -> Pair:
        """A push certificate; without a topic its subject has no UID."""
        attributes = [
            x509.NameAttribute(
                NameOID.COMMON_NAME, f"APSP:{(topic or 'nothing').rpartition('.')[2]}"
            )
        ]
        if topic is not None:
            attributes.insert(0, x509.NameAttribute(NameOID.USER_ID, topic))
        return self._issue(
            name or topic or "nothing",
            x509.Name(attributes),
            (ExtendedKeyUsageOID.CLIENT_AUTH, None),
            (not_before, not_after),
        )

    def server(self) -> Pair:
        """What the fake APNs shows to its clients."""
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        return self._issue(
            "server", subject, (ExtendedKeyUsageOID.SERVER_AUTH, names), (None, None)
        )

    def _issue(
        self,
        name: str,
        subject: x509.Name,
        use: tuple[x509.ObjectIdentifier, x509.SubjectAlternativeName | None],
        validity: tuple[datetime | None, datetime | None],
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        start, end = validity[0] or now - timedelta(days=1), validity[1] or now + YEAR
        builder = _builder(subject, key, start, end).add_extension(
            x509.ExtendedKeyUsage([use[0]]), critical=False
        )
        builder = builder.add_extension(_own_id(key), critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
            critical=False,
        )
        if use[1] is not None:
            builder = builder.add_extension(use[1], critical=False)
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        certificate = builder.sign(self._key, hashes.SHA256())
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        pair.key.chmod(0o600)
        return pair


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(CA_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _own_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())
