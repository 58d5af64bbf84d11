"""TLS towards a server whose CAs an operator may name in a setting."""

import ssl
from pathlib import Path

from shared.domain.errors import Misconfigured


def client_tls(setting: str, file: Path | None, otherwise: str | None = None) -> ssl.SSLContext:
    """TLS that trusts the CAs in `file`, the value of `setting`; without one those in the file `otherwise`,
    or the system's, which OpenSSL finds by SSL_CERT_FILE.

    Raises Misconfigured where the file holds no CA certificates.
    """
    try:
        return ssl.create_default_context(cafile=file or otherwise)
    except ssl.SSLError:
        problem = "holds no CA certificates in PEM"
    except OSError as exc:
        problem = f"cannot be read ({exc.strerror})"
    raise Misconfigured(f"{setting}: {file} {problem}")
