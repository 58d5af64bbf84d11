"""The body of PUT /v1/config/certificate, read as MicroMDM's clients write it.

Promise: what cannot be used is told by the name of its field, and nothing of a key is shown.
"""

import base64
import binascii

from shared.apple.request.read_json import parse_json, without_case
from shared.domain.errors import unfit
from shared.security.push_certificate import PushCertificate, read_pair

LIMIT = 256 * 1024
"""Bytes; a certificate with its chain and key has about 20 KiB."""

PASSWORDS = ("password", "passphrase")


def read_installation(body: bytes) -> PushCertificate:
    """`{"cert", "key"}`, both base64 of PEM, and `password` for a key that is encrypted. Names match
    without letter case. Raises BadRequest."""
    given = without_case(parse_json(body))
    password = next((_text(given, name) for name in PASSWORDS if name in given), None)
    return read_pair(
        _bytes(given, "cert"),
        _bytes(given, "key"),
        None if password is None else password.encode(errors="surrogatepass"),
    )


def _bytes(given: dict[str, object], name: str) -> bytes:
    text = "".join(_text(given, name).split())
    try:
        found = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise unfit(name, "base64 of a PEM file") from None
    if not found:
        raise unfit(name, "base64 of a PEM file")
    return found


def _text(given: dict[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise unfit(name, "a string")
    return value
