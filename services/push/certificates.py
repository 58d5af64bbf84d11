"""Push certificates: which topics this server may push to, and for how long.

Promises: a certificate that could not work (unreadable, without a topic, not its key's, expired) is
refused when the process starts, with the setting that names it; one that ends soon is told of every
day from 60 days on.
"""

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import certifi
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from shared.domain.errors import Misconfigured

log = structlog.get_logger()

TOPIC_PREFIX = "com.apple.mgmt"
WARN_BEFORE = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class PushCertificate:
    """A certificate and key, as files, that let us push to the devices of one topic."""

    topic: str
    not_after: datetime
    certificate_file: Path
    key_file: Path

    def remaining(self, now: datetime) -> timedelta:
        return self.not_after - now


def load_certificates(
    pairs: Iterable[tuple[Path, Path]], now: datetime
) -> dict[str, PushCertificate]:
    """The push certificates by topic, of files of MDM_PUSH_CERT and MDM_PUSH_KEY.

    Raises Misconfigured, naming the setting at fault.
    """
    found: dict[str, PushCertificate] = {}
    for certificate_file, key_file in pairs:
        loaded = _load(certificate_file, key_file, now)
        if loaded.topic in found:
            raise Misconfigured(f"MDM_PUSH_CERT has two certificates for topic {loaded.topic}")
        found[loaded.topic] = loaded
    return found


def client_context(certificate: PushCertificate, trusted: Path | None) -> ssl.SSLContext:
    """TLS towards APNs as the owner of this certificate; `trusted` replaces the public CAs."""
    try:
        context = ssl.create_default_context(cafile=trusted or certifi.where())
    except (OSError, ssl.SSLError) as exc:
        raise Misconfigured(f"MDM_APNS_CA: {trusted} cannot be used as CA certificates") from exc
    try:
        context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    except (OSError, ssl.SSLError) as exc:
        raise Misconfigured(
            f"MDM_PUSH_CERT: {certificate.certificate_file} cannot be used for TLS"
        ) from exc
    return context


def warn_of_expiry(certificates: Mapping[str, PushCertificate], now: datetime) -> None:
    """One log line for each certificate that ends within 60 days."""
    for certificate in certificates.values():
        remaining = certificate.remaining(now)
        if remaining <= WARN_BEFORE:
            log.warning(
                "push_certificate_expires",
                topic=certificate.topic,
                not_after=certificate.not_after.isoformat(),
                days_left=max(0, remaining.days),
            )


def _load(certificate_file: Path, key_file: Path, now: datetime) -> PushCertificate:
    certificate = _read_certificate(certificate_file)
    topic = _topic(certificate, certificate_file)
    if _public_key(certificate_file, certificate) != _key_file_public(key_file):
        raise Misconfigured(f"MDM_PUSH_KEY: {key_file} is not the key of {certificate_file}")
    not_after = certificate.not_valid_after_utc
    if now >= not_after:
        raise Misconfigured(
            f"MDM_PUSH_CERT: {certificate_file} expired at {not_after.isoformat()}; renew it at "
            "identity.apple.com with the same Apple Account"
        )
    if now < certificate.not_valid_before_utc:
        raise Misconfigured(f"MDM_PUSH_CERT: {certificate_file} is not valid yet")
    return PushCertificate(topic, not_after, certificate_file, key_file)


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"{setting}: cannot read {file} ({exc.strerror})") from exc


def _read_certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read("MDM_PUSH_CERT", file))
    except ValueError as exc:
        raise Misconfigured(f"MDM_PUSH_CERT: {file} holds no PEM certificate") from exc


def _topic(certificate: x509.Certificate, file: Path) -> str:
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    except ValueError as exc:
        raise Misconfigured(f"MDM_PUSH_CERT: {file} has a broken subject") from exc
    topic = str(names[0].value) if len(names) == 1 else ""
    if not topic.startswith(TOPIC_PREFIX):
        raise Misconfigured(
            f"MDM_PUSH_CERT: {file} is no MDM push certificate (no UID {TOPIC_PREFIX}... in it)"
        )
    return topic


def _public_key(file: Path, certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    except ValueError as exc:
        raise Misconfigured(f"MDM_PUSH_CERT: {file} has an unusable public key") from exc


def _key_file_public(file: Path) -> bytes:
    try:
        key = load_pem_private_key(_read("MDM_PUSH_KEY", file), password=None)
    except TypeError as exc:
        raise Misconfigured(
            f"MDM_PUSH_KEY: {file} is encrypted; store it without a passphrase"
        ) from exc
    except ValueError as exc:
        raise Misconfigured(f"MDM_PUSH_KEY: {file} holds no PEM private key") from exc
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
