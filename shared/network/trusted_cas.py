"""TLS towards a server whose CAs an operator may name in a setting."""

import ssl
from collections.abc import Collection
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

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


def check_files(setting: str, url: str, cas: str, keys: Collection[str]) -> None:
    """Raises Misconfigured where a file that a parameter of the URL names cannot be used. `url` is the value
    of `setting`, `cas` the parameter that names a file of CAs, and `keys` are the others."""
    for name, file in parse_qsl(urlsplit(url).query):
        if name.lower() == cas:
            client_tls(f"{setting}: {name}", Path(file))
        elif name.lower() in keys:
            try:
                Path(file).read_bytes()
            except OSError as exc:
                problem = f"cannot be read ({exc.strerror})"
                raise Misconfigured(f"{setting}: {name}: {file} {problem}") from None
