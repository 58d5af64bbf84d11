"""Chains that the library's verifier does not take, though all their signatures are good.

It judges by the rules for certificates of the web: serial numbers of up to 20 bytes, version 3, times in one
form for each year, one hash for each curve. Here is what OpenSSL asks of a chain for clients, and what we ask
besides: no SHA-1, no weak key of a CA. Name constraints are left to the library alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from asn1crypto import algos
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from shared.domain.errors import BadRequest
from shared.security.lenient import ber
from shared.security.lenient.certificate import (
    ALTERNATIVE_NAME,
    BASIC_CONSTRAINTS,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    LooseCertificate,
)
from shared.security.public_keys import objection, weak_bits
from shared.security.signature.detached import scheme

_DIGESTS = {
    f"{digest}_{kind}": digest
    for digest in ("sha256", "sha384", "sha512")
    for kind in ("rsa", "ecdsa")
}
_POLICIES = bytes.fromhex("551d20")
_DISTRIBUTION_POINTS, _NAME_CONSTRAINTS = bytes.fromhex("551d1f"), bytes.fromhex("551d1e")
_UNDERSTOOD = {BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE, KEY_USAGE, ALTERNATIVE_NAME}
_UNDERSTOOD |= {_POLICIES, _DISTRIBUTION_POINTS}
"""What may be critical: it is judged, or says nothing that we would act on."""
_ANY_SIZE = range(2**16)


class Unproven(Exception):
    """A signature that nobody should check; the text says why."""


def is_signed(child: LooseCertificate, by: object) -> bool:
    """True if this key signed it, by one signature check over the bytes that came; raises Unproven."""
    algorithm, digest = _algorithm(child)
    try:
        scheme(by, algorithm, digest)(child.signature, child.tbs_certificate_bytes)
    except (BadRequest, InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def fault_of(way: Sequence[LooseCertificate]) -> str | None:
    """The objection to a chain from a device up to the operator\'s CA; None if there is none.

    Raises ValueError for extensions that cannot be read."""
    for each in way:
        each.read_whole()
    try:
        for each in way[:-1]:
            _algorithm(each)
    except Unproven as exc:
        return str(exc)
    device, *above = way
    for critical in _not_understood(device):
        return critical
    for count, authority in enumerate(above):
        for why in _faults_of_authority(authority, count):
            return f"a CA above it {why}"
    return None


def _algorithm(certificate: LooseCertificate) -> tuple[Any, str]:
    """The signature algorithm and its digest; raises Unproven."""
    algorithm = algos.SignedDigestAlgorithm.load(certificate.signature_algorithm_bytes)
    name = str(algorithm["algorithm"].native)
    digest = _DIGESTS.get(name, "")
    if name == "rsassa_pss":
        digest = algorithm["parameters"]["hash_algorithm"]["algorithm"].native
    if digest not in _DIGESTS.values():
        raise Unproven(f"signed with {name}, which proves nothing here")
    return algorithm, digest


def _faults_of_authority(certificate: LooseCertificate, below: int) -> Iterator[str]:
    is_ca, most_below = certificate.authority
    if not is_ca:
        yield "is not marked as a CA"
    if not certificate.may_sign_certificates:
        yield "may not sign certificates"
    if most_below is not None and below > most_below:
        yield f"may have {most_below} more CAs below it, and has {below}"
    if not certificate.is_for_clients:
        yield "is not made for certificates of clients"
    if _NAME_CONSTRAINTS in certificate.extensions:
        yield "has name constraints, and the chain is not as RFC 5280 demands"
    key = certificate.public_key()
    if (bits := weak_bits(key)) is not None:
        yield f"has an RSA key of {bits} bits"
    if (unusual := objection(key, _ANY_SIZE)) is not None:
        yield f"has {unusual}"
    yield from _not_understood(certificate)


def _not_understood(certificate: LooseCertificate) -> Iterator[str]:
    for name, extension in certificate.extensions.items():
        if extension.is_critical and name not in _UNDERSTOOD:
            yield f"has the critical extension {ber.dotted(name)}, which is not known here"
