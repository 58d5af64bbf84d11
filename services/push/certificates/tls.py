"""Push certificates of the settings, and TLS with any of them.

Promises: a file that could not work (unreadable, without a topic, not its key's, not valid yet) is
refused when the process starts, with the setting that names it; one that has expired is not, since a
newer one may have been installed by API. On Linux no private key is written to a disk.
"""

import os
import ssl
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

import certifi

from shared.domain.errors import BadRequest, Misconfigured
from shared.network.trusted_cas import client_tls
from shared.security.push_certificate import PushCertificate, bad_pair, read_pair
from shared.settings.values import read_file


def load_certificates(
    pairs: Iterable[tuple[Path, Path]], now: datetime
) -> dict[str, PushCertificate]:
    """By topic, of MDM_PUSH_CERT and MDM_PUSH_KEY. Raises Misconfigured, naming the setting at fault."""
    found: dict[str, PushCertificate] = {}
    for certificate_file, key_file in pairs:
        certificate_pem = read_file("MDM_PUSH_CERT", certificate_file)
        key_pem = read_file("MDM_PUSH_KEY", key_file)
        try:
            loaded = read_pair(certificate_pem, key_pem)
            if not loaded.has_expired(now):
                loaded.must_be_valid(now)
            client_context(loaded, None)
        except BadRequest as exc:
            [fault] = exc.faults
            files = {"cert": ("MDM_PUSH_CERT", certificate_file), "key": ("MDM_PUSH_KEY", key_file)}
            setting, file = files[fault.path]
            raise Misconfigured(f"{setting}: {file} {fault.expected}") from None
        if loaded.topic in found:
            raise Misconfigured(f"MDM_PUSH_CERT has two certificates for topic {loaded.topic}")
        found[loaded.topic] = loaded
    return found


def apns_tls(trusted: Path | None) -> ssl.SSLContext:
    """TLS towards APNs; `trusted` replaces the public CAs. Raises Misconfigured where it holds none."""
    return client_tls("MDM_APNS_CA", trusted, certifi.where())


def client_context(certificate: PushCertificate, trusted: Path | None) -> ssl.SSLContext:
    """Raises BadRequest for a certificate that TLS does not take, Misconfigured for the CAs."""
    context = apns_tls(trusted)
    with _as_file(certificate.certificate_pem) as chain, _as_file(certificate.key_pem) as key:
        try:
            context.load_cert_chain(chain, key)
        except (OSError, ssl.SSLError):
            raise bad_pair("cert", "cannot be used for TLS") from None
    return context


class ClientContexts:
    """The TLS contexts of the certificates in use, by fingerprint; each is made once."""

    def __init__(self, trusted: Path | None) -> None:
        self._trusted = trusted
        self._made: dict[str, ssl.SSLContext] = {}

    def of(self, certificate: PushCertificate) -> ssl.SSLContext:
        """Raises as `client_context` does."""
        if certificate.fingerprint not in self._made:
            self._made[certificate.fingerprint] = client_context(certificate, self._trusted)
        return self._made[certificate.fingerprint]

    def of_only(self, certificates: Iterable[PushCertificate]) -> dict[str, ssl.SSLContext]:
        """The contexts of these; those of others are forgotten."""
        self._made = {each.fingerprint: self.of(each) for each in certificates}
        return self._made


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """`ssl` reads files only. On Linux this one is in memory; elsewhere it has no name."""
    is_linux = sys.platform == "linux"
    with os.fdopen(os.memfd_create("pem"), "w+b") if is_linux else TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
