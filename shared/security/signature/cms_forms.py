"""The SignedData of a CMS (RFC 5652, section 5), read by hand where it is of the usual form.

Promise: what is read by hand is what asn1crypto reads, in a tenth of the time. All that is unusual is left to
asn1crypto: an indefinite length, a value in pieces, another algorithm or kind of content, anything that no
device writes. Nothing is checked here but the form.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from asn1crypto import algos, core

from shared.domain.errors import BadRequest
from shared.security.asn1 import ber
from shared.security.asn1.ber import Element, split
from shared.security.asn1.der import NULL, oid, sequence
from shared.security.signature.cms import (
    LONGEST_AT_ONCE,
    LONGEST_SIGNED,
    MOST_AT_ONCE,
    MOST_PARTS,
    MOST_SIGNED,
    only_signer,
    signed_data_of,
)

MAX_CERTIFICATES = 10
MOST_ATTRIBUTES = 32
"""Signed attributes; devices send three to five, SCEP clients up to nine."""


class NotAtOnce(Exception):
    """Reading it may take longer than the event loop has."""


class SignerId(NamedTuple):
    """The certificate of a signer: by its issuer (encoded) and serial number, or by its key's identifier."""

    issuer: bytes
    serial: int
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Attributes:
    """The signed attributes. Of each kind all values."""

    digests: list[Any]
    types: list[Any]
    times: Callable[[], list[Any]]
    """Raises ValueError for one that cannot be read."""
    received: bytes | None
    """What is signed, in the order in which it came; None where that cannot be what was signed."""
    in_order: Callable[[], bytes]
    """The same in DER's order."""


@dataclass(frozen=True, slots=True)
class SignedData:
    certificates: list[bytes]
    signer: SignerId
    digest: str
    algorithm: Any
    """As asn1crypto has it."""
    signature: bytes
    content: bytes | None
    content_type: str
    attributes: Callable[[], Attributes] | None


def read_signed_data(encoded: bytes, *, at_once: bool = False) -> SignedData:
    """Raises BadRequest for what is none, or has not one signer, and NotAtOnce where that is asked for;
    asn1crypto may raise others."""
    with suppress(Unusual, ValueError):
        return read_usual(encoded)
    if at_once:
        try:
            ber.check_values(encoded, MOST_AT_ONCE, LONGEST_AT_ONCE)
        except ValueError:
            raise NotAtOnce from None
    return read_any(encoded)


# --- by asn1crypto


def read_any(encoded: bytes) -> SignedData:
    """By asn1crypto, as `read_signed_data`."""
    signed_data = signed_data_of(encoded, "Mdm-Signature")
    signer_info = only_signer(signed_data, "Mdm-Signature")
    certificates = _certificates_of(signed_data)
    sid, encapsulated = signer_info["sid"], signed_data["encap_content_info"]
    if sid.name == "issuer_and_serial_number":
        signer = SignerId(sid.chosen["issuer"].dump(), sid.chosen["serial_number"].native)
    else:
        signer = SignerId(b"", 0, sid.chosen.native)
    attributes = signer_info["signed_attrs"]
    return SignedData(
        certificates=certificates,
        signer=signer,
        digest=signer_info["digest_algorithm"]["algorithm"].native,
        algorithm=signer_info["signature_algorithm"],
        signature=signer_info["signature"].native,
        content=encapsulated["content"].native,
        content_type=encapsulated["content_type"].native,
        attributes=None
        if isinstance(attributes, core.Void)
        else lambda: _any_attributes(attributes),
    )


def _certificates_of(signed_data: Any) -> list[bytes]:
    choices = signed_data["certificates"]
    if isinstance(choices, core.Void) or len(choices) == 0:
        raise BadRequest("Mdm-Signature: holds no certificate")
    if len(choices) > MAX_CERTIFICATES:
        raise BadRequest("Mdm-Signature: too many certificates")
    # The very bytes that came: asn1crypto would write an indefinite length in another form.
    return [each.raw for each in split(choices.contents, MAX_CERTIFICATES)]


def _any_attributes(attributes: Any) -> Attributes:
    try:
        ber.check_values(attributes.contents, MOST_SIGNED, LONGEST_SIGNED)
    except ValueError:
        raise BadRequest("Mdm-Signature: too much in its signed attributes") from None
    if len(attributes) > MOST_ATTRIBUTES:
        raise BadRequest("Mdm-Signature: too many signed attributes")
    digests, types = _values(attributes, "message_digest", "content_type")
    received = attributes.dump()
    return Attributes(
        digests=digests,
        types=types,
        times=lambda: _values(attributes, "signing_time")[0],
        received=None if received[1] == 0x80 else b"\x31" + received[1:],
        in_order=lambda: bytes(attributes.untag().dump(force=True)),
    )


def _values(attributes: Any, *names: str) -> list[list[Any]]:
    """All values of each of these attributes."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for attribute in attributes:
        name = attribute["type"].native
        if name in found:
            found[name].extend(attribute["values"].native)
    return list(found.values())


# --- by hand

_DATA, _SIGNED_DATA = oid("1.2.840.113549.1.7.1"), oid("1.2.840.113549.1.7.2")
_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_TIME = (oid(f"1.2.840.113549.1.9.{n}") for n in (3, 4, 5))
_CAPABILITIES = oid("1.2.840.113549.1.9.15")
"""Of S/MIME: OpenSSL writes them, and nobody reads them here."""
_CONTEXT_0 = (2, 0)
_INDEFINITE = 0x80
_VERSIONS = {b"\x02\x01" + bytes((version,)) for version in range(1, 6)}
_TIME = re.compile(rb"\d{12}Z")
_DIGESTS = ("sha1", "sha256", "sha384", "sha512")


def _algorithms(kind: Any, names: Iterable[str], *parameters: bytes) -> dict[bytes, Any]:
    """Algorithms of asn1crypto, by their DER with any of these parameters."""
    ids = [oid(kind({"algorithm": name})["algorithm"].dotted) for name in names]
    return {
        encoded: kind.load(encoded)
        for id_ in ids
        for each in parameters
        for encoded in [sequence(id_, each)]
    }


_DIGEST_ALGORITHMS = _algorithms(algos.DigestAlgorithm, _DIGESTS, NULL, b"")
_RSA = ("rsassa_pkcs1v15", *(f"{name}_rsa" for name in _DIGESTS))
_SIGNATURE_ALGORITHMS = _algorithms(algos.SignedDigestAlgorithm, _RSA, NULL)
_SIGNATURE_ALGORITHMS |= _algorithms(
    algos.SignedDigestAlgorithm, (f"{name}_ecdsa" for name in _DIGESTS), b""
)


class Unusual(Exception):
    """Left to asn1crypto."""


def read_usual(encoded: bytes) -> SignedData:
    """By hand. Raises Unusual, or ValueError, for what it leaves to asn1crypto."""
    [info] = _parts(encoded, ber.SEQUENCE)
    kind, wrapped = _parts(info.content, ber.OBJECT, _CONTEXT_0)
    [data] = _parts(wrapped.content, ber.SEQUENCE)
    version, _, inner, certificates, signers = _parts(
        data.content, ber.INTEGER, ber.SET, ber.SEQUENCE, _CONTEXT_0, ber.SET
    )
    [signer] = _parts(signers.content, ber.SEQUENCE)
    fields = _all_parts(signer.content)
    attributes = _usual_attributes(fields.pop(3), encoded) if len(fields) == 6 else None
    if kind.raw != _SIGNED_DATA or len(fields) != 5 or {version.raw, fields[0].raw} - _VERSIONS:
        raise Unusual
    _, sid, digest, algorithm, signature = fields
    hashed, signed = _DIGEST_ALGORITHMS.get(digest.raw), _SIGNATURE_ALGORITHMS.get(algorithm.raw)
    if hashed is None or signed is None or not _is_octets(signature):
        raise Unusual
    return SignedData(
        certificates=[each.raw for each in _all_parts(certificates.content, MAX_CERTIFICATES)],
        signer=_signer_id(sid),
        digest=hashed["algorithm"].native,
        algorithm=signed,
        signature=signature.content,
        content=_content(inner),
        content_type="data",
        attributes=None if attributes is None else lambda: attributes,
    )


def _all_parts(encoded: bytes, most: int = MOST_PARTS) -> list[Element]:
    found = list(split(encoded, most))
    if not found or any(each.raw[1] == _INDEFINITE for each in found):
        raise Unusual
    return found


def _parts(encoded: bytes, *kinds: ber.Kind) -> list[Element]:
    found = _all_parts(encoded)
    constructed = [each.is_constructed for each in found]
    wanted = [kind not in (ber.INTEGER, ber.OBJECT) for kind in kinds]
    if [each.kind for each in found] != list(kinds) or constructed != wanted:
        raise Unusual
    return found


def _is_octets(element: Element) -> bool:
    return element.kind == ber.OCTET_STRING and not element.is_constructed


def _content(encapsulated: Element) -> bytes | None:
    kind, *rest = _all_parts(encapsulated.content)
    if kind.raw != _DATA or len(rest) > 1:
        raise Unusual
    if not rest:
        return None
    [content] = _all_parts(rest[0].content)
    if rest[0].kind != _CONTEXT_0 or not rest[0].is_constructed or not _is_octets(content):
        raise Unusual
    return content.content


def _signer_id(sid: Element) -> SignerId:
    if sid.kind == ber.SEQUENCE and sid.is_constructed:
        issuer, serial = _parts(sid.content, ber.SEQUENCE, ber.INTEGER)
        return SignerId(issuer.raw, ber.integer_of(serial))
    if sid.kind == _CONTEXT_0 and not sid.is_constructed:
        return SignerId(b"", 0, sid.content)
    raise Unusual


def _usual_attributes(attributes: Element, encoded: bytes) -> Attributes:
    if attributes.kind != _CONTEXT_0 or not attributes.is_constructed:
        raise Unusual
    values: dict[bytes, Element] = {}
    for attribute in _all_parts(attributes.content):
        kind, among = _parts(attribute.content, ber.OBJECT, ber.SET)
        if attribute.raw[0] != 0x30 or kind.raw in values:
            raise Unusual
        values[kind.raw] = among
    [digest] = _all_parts(values.pop(_MESSAGE_DIGEST, _NO_VALUES).content)
    [type_] = _all_parts(values.pop(_CONTENT_TYPE, _NO_VALUES).content)
    times = [_time(values.pop(_SIGNING_TIME))] if _SIGNING_TIME in values else []
    if values.pop(_CAPABILITIES, None):
        ber.check_values(attributes.content, MOST_SIGNED, LONGEST_SIGNED)
    if values or type_.raw != _DATA or not _is_octets(digest):
        raise Unusual
    return Attributes(
        digests=[digest.content],
        types=["data"],
        times=lambda: times,
        received=b"\x31" + attributes.raw[1:],
        in_order=lambda: _in_order(encoded),
    )


_NO_VALUES = Element(ber.SET, True, b"", b"")


def _time(among: Element) -> datetime:
    [time] = _all_parts(among.content)
    if time.raw[0] != 0x17 or not _TIME.fullmatch(time.content):
        raise Unusual
    century = "20" if time.content < b"5" else "19"
    digits = century + time.content[:-1].decode("ascii")
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _in_order(encoded: bytes) -> bytes:
    attributes = read_any(encoded).attributes
    assert attributes is not None
    return attributes().in_order()
