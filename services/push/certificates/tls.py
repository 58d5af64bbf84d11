"""Push certificates of the settings, TLS with any of them, and the warning before they expire.

Promises: a file that could not work (unreadable, without a topic, not its key's, not valid yet) is
refused when the process starts, with the setting that names it; one that has expired is not, since a
newer one may have been installed by API; one that ends soon is told of every day from 60 days on.
On Linux no private key is written to a disk.
"""

import os
import ssl
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

import certifi
import structlog

from shared.domain.errors import BadRequest, Misconfigured
from shared.network.trusted_cas import client_tls
from shared.security.push_certificate import PushCertificate, read_pair, refusal

log = structlog.get_logger()

WARN_BEFORE = timedelta(days=60)

_SETTINGS = {"cert": "MDM_PUSH_CERT", "key": "MDM_PUSH_KEY"}


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


def must_be_trust(trusted: Path | None) -> None:
    """Raises Misconfigured where MDM_APNS_CA holds no CA certificates."""
    _tls(trusted)


def client_context(certificate: PushCertificate, trusted: Path | None) -> ssl.SSLContext:
    """TLS towards APNs as the owner of this certificate; `trusted` replaces the public CAs.

    Raises BadRequest for a certificate that TLS does not take, Misconfigured for the CAs.
    """
    context = _tls(trusted)
    with _as_file(certificate.certificate_pem) as chain, _as_file(certificate.key_pem) as key:
        try:
            context.load_cert_chain(chain, key)
        except (OSError, ssl.SSLError):
            raise refusal("cert", "cannot be used for TLS") from None
    return context


def warn_of_expiry(certificates: Iterable[PushCertificate], now: datetime) -> None:
    """One log line for each certificate that ends within 60 days."""
    for certificate in certificates:
        remaining = certificate.remaining(now)
        if remaining <= WARN_BEFORE:
            say = log.error if certificate.has_expired(now) else log.warning
            say(
                "push_certificate_expires",
                topic=certificate.topic,
                not_after=certificate.not_after.isoformat(),
                days_left=max(0, remaining.days),
            )


def _tls(trusted: Path | None) -> ssl.SSLContext:
    return client_tls("MDM_APNS_CA", trusted, certifi.where())


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """`ssl` reads files only. On Linux this one is in memory; elsewhere it has no name."""
    is_linux = sys.platform == "linux"
    with os.fdopen(os.memfd_create("pem"), "w+b") if is_linux else TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _load(certificate_file: Path, key_file: Path, now: datetime) -> PushCertificate:
    certificate_pem = _read("MDM_PUSH_CERT", certificate_file)
    key_pem = _read("MDM_PUSH_KEY", key_file)
    try:
        loaded = read_pair(certificate_pem, key_pem)
        if not loaded.has_expired(now):
            loaded.must_be_valid(now)
        client_context(loaded, None)
    except BadRequest as exc:
        [fault] = exc.faults
        file = certificate_file if fault.path == "cert" else key_file
        problem = f"{_SETTINGS[fault.path]}: {file} {fault.expected}"
        raise Misconfigured(problem) from None
    return loaded


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"{setting}: cannot read {file} ({exc.strerror})") from exc
