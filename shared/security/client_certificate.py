"""The device's certificate from a header that a TLS-terminating proxy sets.

Promise: the header counts only if the peer is a listed proxy; any other peer's is ignored. Two headers, or
a folded one, are refused: a proxy that adds its own beside the client's must not leave us to choose.

Formats: RFC 9440 (`:base64 of DER:`), or URL-escaped PEM (nginx: $ssl_client_escaped_cert; Go's QueryEscape,
which writes a blank as `+`; AWS ALB, which leaves the `+` of base64 as it is). In PEM the issuers of the
certificate may follow it, each of the one before.
"""

import base64
import ipaddress
import itertools
import re
from collections.abc import Sequence
from urllib.parse import unquote

from shared.domain.errors import BadRequest
from shared.security.asn1.ber import Unreadable
from shared.security.certificates.lenient import (
    UNREADABLE,
    issuer_of,
    load_certificate,
    subject_of,
)
from shared.security.certificates.names import comparable
from shared.settings.values import Network

MAX_HEADER = 64 * 1024
_RFC9440 = re.compile(r":[A-Za-z0-9+/]*={0,2}:")
_PEM = re.compile(r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
MOST = 6
"""Certificates in one header: those of devices have one to three issuers."""


class ClientCertificateHeader:
    def __init__(self, trusted_proxies: Sequence[Network]) -> None:
        self._trusted_proxies = tuple(trusted_proxies)

    def read(self, values: Sequence[str], peer: str | None) -> tuple[bytes, ...]:
        """The certificate (DER) and those of its issuers; nothing where no trusted proxy gave one. `values`
        are all values of the header in this request; `peer` is the address of the connection, never one
        that a header claims."""
        if not values:
            return ()
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:  # a Unix socket, a test's name
            return ()
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if not any(address in network for network in self._trusted_proxies):
            return ()
        if len(values) > 1:
            raise BadRequest("client certificate header: there is more than one")
        value = values[0].strip(" ")
        return _certificates(value) if value else ()


def _certificates(value: str) -> tuple[bytes, ...]:
    if len(value) > MAX_HEADER:
        raise BadRequest("client certificate header: too long")
    if not value.isascii() or not value.isprintable():
        raise BadRequest("client certificate header: folded, or not plain ASCII")
    try:
        found = _decoded(value)
        chain = [load_certificate(der) for der in found]
        for issued, by in itertools.pairwise(chain):
            if comparable(issuer_of(issued)) != comparable(subject_of(by)):
                # Not the issuer of the one before: it may be another client's.
                raise BadRequest("client certificate header: holds certificates of several clients")
    except Unreadable as exc:
        raise BadRequest(f"client certificate header: cannot be read: {exc}") from None
    except UNREADABLE:
        raise BadRequest("client certificate header: cannot be read") from None
    return found


def _decoded(value: str) -> tuple[bytes, ...]:
    if value.startswith(":"):
        if not _RFC9440.fullmatch(value):
            raise BadRequest("client certificate header: not a byte sequence of RFC 9440")
        return (base64.b64decode(value[1:-1], validate=True),)
    if "BEGIN+CERTIFICATE" in value:
        value = value.replace("+", " ")
    pem, at, found = unquote(value, errors="strict"), 0, list[bytes]()
    while at < len(pem):
        block = _PEM.match(pem, at)
        if block is None or len(found) == MOST:
            raise BadRequest(f"client certificate header: not 1 to {MOST} PEM certificates")
        found.append(base64.b64decode("".join(block[1].split()), validate=True))
        at = block.end()
    return tuple(found)
