"""Chains that the library's verifier does not take, though all their signatures are good.

It judges by the rules for certificates of the web: serial numbers of up to 20 bytes, version 3, times in one
form for each year, one hash for each curve. These are OpenSSL's rules for a chain of a client, and ours: no
SHA-1, no weak key of a CA. Name constraints are left to the library alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from asn1crypto import algos

from shared.security.asn1.ber import dotted
from shared.security.certificates.lenient import (
    ALTERNATIVE_NAME,
    BASIC_CONSTRAINTS,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    LooseCertificate,
)
from shared.security.certificates.public_keys import objection, weak_bits

_DIGESTS = {"sha256", "sha384", "sha512"}
_POLICIES = bytes.fromhex("551d20")
_DISTRIBUTION_POINTS, _NAME_CONSTRAINTS = bytes.fromhex("551d1f"), bytes.fromhex("551d1e")
_UNDERSTOOD = {BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE, KEY_USAGE, ALTERNATIVE_NAME}
_UNDERSTOOD |= {_POLICIES, _DISTRIBUTION_POINTS}
"""What may be critical: it is judged, or says nothing that we would act on."""
_ANY_SIZE = range(2**16)


class Unproven(Exception):
    """A signature that is not worth a check; the text says why."""


def fault_of(way: Sequence[LooseCertificate]) -> str | None:
    """The objection to a chain from a device up to the operator's CA; None if there is none. Raises Unproven,
    and ValueError for extensions that cannot be read."""
    for each in way:
        each.read_whole()
    for each in way[:-1]:
        algorithm_of(each)
    return next(_faults(*way), None)


def algorithm_of(certificate: LooseCertificate) -> tuple[Any, str]:
    """The signature algorithm and its digest; raises Unproven."""
    algorithm = algos.SignedDigestAlgorithm.load(certificate.signature_algorithm_bytes)
    name = str(algorithm["algorithm"].native)
    digest, _, kind = name.partition("_")
    if name == "rsassa_pss":
        digest = algorithm["parameters"]["hash_algorithm"]["algorithm"].native
    if digest not in _DIGESTS or kind not in {"rsa", "ecdsa", "pss"}:
        raise Unproven(f"signed with {name}, which proves nothing here")
    return algorithm, digest


def _faults(device: LooseCertificate, *above: LooseCertificate) -> Iterator[str]:
    yield from _not_understood(device)
    for below, authority in enumerate(above):
        for why in _faults_of_authority(authority, below):
            yield f"a CA above it {why}"


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
            yield f"has the critical extension {dotted(name)}, which is not known here"
