"""Chains from a device's certificate up to a CA of the operator's, with a bounded number of signature checks.

Promise: a stranger's certificate counts for nothing before a CA above it has vouched for it. Ways are
found by names alone and checked from the top: the extensions of an intermediate that came with the message
are read only once its own signature is good. The operator's own CAs are tried first.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from itertools import chain, pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification

from shared.domain.errors import BadRequest
from shared.security.asn1.ber import Unreadable
from shared.security.certificates.lenient import (
    UNREADABLE,
    AnyCertificate,
    LooseCertificate,
    issuer_of,
    load_certificate,
    loosely,
    public_key_of,
    subject_of,
)
from shared.security.certificates.names import comparable
from shared.security.certificates.public_keys import (
    INTERMEDIATE_SIZES,
    LARGEST_CERTIFICATE,
    objection,
    signature_check,
)
from shared.security.chain_rules import Unproven, algorithm_of, fault_of

MOST_FOREIGN = 3
"""Intermediates of a message on the way up; all others are left unread."""
USUAL_CERTIFICATE = 2048
"""Bytes of a device's certificate at most, as CAs make them."""
MOST_CHECKS = 10
"""Signature checks of one chain. With two of the message's own signature
(`shared.security.signature.signers`) and four of Apple's CAs (`shared.security.apple_device`) a request
has sixteen at most."""


class NotTrusted(Exception):
    """The certificate is no device's. `is_final`: nor will it be at another time."""

    def __init__(self, why: str, *, is_final: bool = True) -> None:
        super().__init__(why)
        self.is_final = is_final


class _Link:
    def __init__(self, certificate: AnyCertificate) -> None:
        self.certificate = certificate

    @cached_property
    def subject(self) -> object:
        return comparable(subject_of(self.certificate))

    @cached_property
    def issuer(self) -> object:
        return comparable(issuer_of(self.certificate))

    @cached_property
    def loose(self) -> LooseCertificate:
        return loosely(self.certificate)

    @cached_property
    def store(self) -> verification.Store:
        """For the library's verifier, of a trusted certificate; one takes a third of the time of a check."""
        assert isinstance(self.certificate, x509.Certificate)
        return verification.Store([self.certificate])


@dataclass
class _Checks:
    """The signature checks of one request: counted, and none made twice."""

    left: int = MOST_CHECKS
    unproven: str | None = None
    """Why a signature was not checked at all."""
    known: dict[tuple[_Link, _Link], bool] = field(default_factory=dict)
    strict: dict[tuple[_Link, ...], bool] = field(default_factory=dict)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise NotTrusted("too many ways to a trusted CA")

    def is_signed(self, child: _Link, by: _Link) -> bool:
        if (child, by) not in self.known:
            self.spend(1)
            try:
                self.known[child, by] = _is_signed(child, by)
            except Unproven as why:
                self.known[child, by], self.unproven = False, str(why)
        return self.known[child, by]

    def is_strictly_good(self, links: Sequence[_Link], moment: datetime) -> bool:
        way = tuple(links)
        if way not in self.strict:
            self.strict[way] = _is_strictly_good(links, self, moment)
        return self.strict[way]


class Chains:
    """Builds chains to a fixed set of CA certificates."""

    def __init__(self, trust: Sequence[AnyCertificate]) -> None:
        self._by_subject: dict[object, list[_Link]] = {}
        for link in map(_Link, trust):
            self._by_subject.setdefault(link.subject, []).append(link)

    def build(
        self, leaf: AnyCertificate, others: Sequence[bytes], moment: datetime
    ) -> list[AnyCertificate]:
        """The chain, from the leaf to a trusted CA, all valid at that moment; raises NotTrusted."""
        bottom, checks, is_final, fault = _Link(leaf), _Checks(), True, None
        # The library's verifier proves the signature too, so it judges a certificate that came alone first,
        # where the ways are few enough for three checks each: its two, and our own where it refuses. Its
        # refusal repeats the subject, which may be long.
        is_usual = not others and len(leaf.public_bytes(Encoding.DER)) <= USUAL_CERTIFICATE
        is_alone = is_usual and 3 * len(self._by_subject.get(bottom.issuer, ())) <= MOST_CHECKS
        for way in self._ways(bottom, others):
            links = [bottom, *way]
            above = [link.certificate for link in way]
            if not all(c.not_valid_before_utc <= moment <= c.not_valid_after_utc for c in above):
                is_final = False
            elif is_alone and _is_proven(links, checks, moment):
                return [leaf, *above]
            # From the top down.
            elif all(checks.is_signed(child, by) for child, by in reversed(list(pairwise(links)))):
                fault = _fault(links, checks, moment)
                if fault is None:
                    return [leaf, *above]
        raise NotTrusted(fault or checks.unproven or "not one of a trusted CA", is_final=is_final)

    def _ways(self, bottom: _Link, others: Sequence[bytes]) -> Iterator[list[_Link]]:
        """All ways up by the names of issuers, those of the operator's own CAs first."""
        yield from self._last_steps(bottom)
        yield from self._through(bottom, _on_the_way(bottom, others))

    def _last_steps(self, child: _Link) -> Iterator[list[_Link]]:
        return ([anchor] for anchor in self._by_subject.get(child.issuer, ()))

    def _through(self, child: _Link, foreign: Sequence[_Link]) -> Iterator[list[_Link]]:
        for link in foreign:
            if link.subject == child.issuer:
                others = [other for other in foreign if other is not link]
                for way in (*self._last_steps(link), *self._through(link, others)):
                    yield [link, *way]


def _on_the_way(bottom: _Link, others: Sequence[bytes]) -> list[_Link]:
    """The certificates of a message, the nearest that may be above, and whose key is worth a check."""
    left = [_Link(load_certificate(der)) for der in others if len(der) <= LARGEST_CERTIFICATE]
    found: list[_Link] = []
    for child in chain([bottom], found):  # `found` grows meanwhile
        for link in left:
            is_new = link.subject == child.issuer and link not in found
            if is_new and not objection(public_key_of(link.certificate), INTERMEDIATE_SIZES):
                found.append(link)
            if len(found) == MOST_FOREIGN:
                return found
    return found


def _is_proven(links: Sequence[_Link], checks: _Checks, moment: datetime) -> bool:
    """True if the library's verifier takes this way, of which no signature is known to be good."""
    device, anchor = (link.certificate for link in links)
    if device == anchor:
        return False  # It takes a trusted certificate as it is, without a check.
    # An exception counts only where the signature is good, and is raised again there.
    with suppress(*UNREADABLE):
        return checks.is_strictly_good(links, moment)
    return False


def _fault(links: Sequence[_Link], checks: _Checks, moment: datetime) -> str | None:
    """The objection to this way, of which all signatures are good; None if there is none."""
    if checks.is_strictly_good(links, moment):
        return None
    try:
        return fault_of([link.loose for link in links])
    except Unproven as exc:
        return str(exc)
    except Unreadable as exc:
        return f"the chain cannot be read: {exc}"
    except ValueError:
        return "the chain cannot be read"


def _is_strictly_good(links: Sequence[_Link], checks: _Checks, moment: datetime) -> bool:
    """True if the library's verifier takes it."""
    strict = [c for link in links if isinstance(c := link.certificate, x509.Certificate)]
    if len(strict) < len(links):
        return False
    # The library looks for its own way through these, and checks each candidate that a name fits.
    checks.spend(sum(by.subject == child.issuer for child in links[:-1] for by in links[1:]))
    leaf, *foreign, _ = strict
    policy = verification.PolicyBuilder().store(links[-1].store).time(moment)
    policy = policy.max_chain_depth(len(foreign)).extension_policies(
        ca_policy=_authority_policy(), ee_policy=verification.ExtensionPolicy.permit_all()
    )
    try:
        policy.build_client_verifier().verify(leaf, foreign)
    except verification.VerificationError:
        return False
    return True


def _is_signed(child: _Link, by: _Link) -> bool:
    """By one signature check; raises Unproven where none is worth it."""
    issued, issuer = child.certificate, by.certificate
    try:
        if isinstance(issued, x509.Certificate) and isinstance(issuer, x509.Certificate):
            issued.verify_directly_issued_by(issuer)
            return True
    except InvalidSignature:
        return False
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass  # The library checked nothing: it compares names as bytes, and knows few algorithms.
    try:
        algorithm, digest = algorithm_of(child.loose)
        check = signature_check(public_key_of(issuer), algorithm, digest)
        check(child.loose.signature, child.loose.tbs_certificate_bytes)
    except Unreadable as exc:
        raise Unproven(f"cannot be read: {exc}") from None
    except (BadRequest, InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


@cache
def _authority_policy() -> verification.ExtensionPolicy:
    """The rules for CAs of the web, but for what private CAs leave out: one that `openssl req -x509` makes
    has no key usage; others mark nothing as critical, or name their issuer by serial number. That it is a CA
    must still be written in it."""
    anyhow = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.webpki_defaults_ca()
        .require_present(x509.BasicConstraints, anyhow, _refuse_no_authority)
        .may_be_present(x509.KeyUsage, anyhow, _refuse_no_authority)
        .may_be_present(x509.AuthorityKeyIdentifier, anyhow, None)
    )


def _refuse_no_authority(
    _policy: verification.Policy, _certificate: x509.Certificate, extension: object
) -> None:
    if isinstance(extension, x509.BasicConstraints) and not extension.ca:
        raise ValueError("not a CA")
    if isinstance(extension, x509.KeyUsage) and not extension.key_cert_sign:
        raise ValueError("not for signing certificates")
