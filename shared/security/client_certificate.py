"""The device's certificate from a header that a TLS-terminating proxy sets.

Promise: the header counts only if the peer is a listed proxy; from anybody else it is as if it were
not there. Two headers, or a folded one, are refused: a proxy that adds its own beside the client's
must not leave us to choose.

Formats: RFC 9440 (`:base64 of DER:`), or URL-escaped PEM (nginx: $ssl_client_escaped_cert).
"""

import base64
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shared.domain.errors import BadRequest
from shared.security.identity import UNREADABLE

MAX_HEADER = 64 * 1024
_RFC9440 = re.compile(r":[A-Za-z0-9+/]*={0,2}:")
_ONE_PEM = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*"
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientCertificateHeader:
    """Reads the header for requests that come from trusted proxies."""

    def __init__(self, trusted_proxies: Sequence[Network]) -> None:
        self._trusted_proxies = tuple(trusted_proxies)

    def read(self, values: Sequence[str], peer: str | None) -> bytes | None:
        """The certificate (DER), or None where no trusted proxy gave one.

        `values` are all values of the header in this request; `peer` is the address of the
        connection, never one that a header claims.
        """
        if not values or not self._trusts(peer):
            return None
        if len(values) > 1:
            raise BadRequest("client certificate header: there is more than one")
        value = values[0].strip(" ")
        return _certificate(value) if value else None

    def _trusts(self, peer: str | None) -> bool:
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:  # a Unix socket, a test's name
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted_proxies)


def _certificate(value: str) -> bytes:
    if len(value) > MAX_HEADER:
        raise BadRequest("client certificate header: too long")
    if not value.isascii() or not value.isprintable():
        raise BadRequest("client certificate header: folded, or not plain ASCII")
    try:
        der = _rfc9440(value) if value.startswith(":") else _escaped_pem(value)
        x509.load_der_x509_certificate(der)
    except UNREADABLE:
        raise BadRequest("client certificate header: cannot be read") from None
    return der


def _rfc9440(value: str) -> bytes:
    if not _RFC9440.fullmatch(value):
        raise BadRequest("client certificate header: not a byte sequence of RFC 9440")
    return base64.b64decode(value[1:-1], validate=True)


def _escaped_pem(value: str) -> bytes:
    pem = unquote(value, errors="strict")
    if not _ONE_PEM.fullmatch(pem):
        raise BadRequest("client certificate header: not one PEM certificate")
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
