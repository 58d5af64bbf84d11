"""Pushes with whichever certificate of the topic APNs takes.

Promises: a certificate that APNs refuses costs no push while another one of its topic works; one that
has not been proven yet is also passed over while no connection with it stands, since a TLS server may
refuse a certificate that way; what APNs says of a device ends the search.
"""

from typing import Protocol

from services.push.certificates.store import CertificateBook
from services.push.send.apns import Push
from services.push.send.outcomes import (
    Accepted,
    Outcome,
    Retry,
    TopicRefused,
    Unanswered,
    Unreachable,
)
from services.push.send.topics import NoCertificate
from shared.security.push_certificate import RENEWAL, PushCertificate


class Line(Protocol):
    async def push(self, push: Push, certificate: str) -> Outcome: ...


class CertifiedSender:
    """Implements `services.push.send.attempt.PushSender`."""

    def __init__(self, apns: Line, book: CertificateBook) -> None:
        self._apns = apns
        self._book = book

    async def push(self, push: Push) -> Outcome:
        outcome: Outcome = NoCertificate(f"the push certificate has expired; {RENEWAL}")
        passed: list[tuple[PushCertificate, str]] = []
        for certificate in self._book.candidates(push.topic):
            outcome = await self._apns.push(push, certificate.fingerprint)
            if isinstance(outcome, Accepted):
                self._book.accepted(certificate)
            if not self._passes_over(certificate, outcome):
                break
            if isinstance(outcome, TopicRefused | Unreachable):
                passed.append((certificate, outcome.reason))
        if not isinstance(outcome, TopicRefused | Retry):
            for certificate, reason in passed:
                self._book.refused(certificate, reason)
        return outcome

    def _passes_over(self, certificate: PushCertificate, outcome: Outcome) -> bool:
        if isinstance(outcome, Unanswered):
            return not self._book.is_proven(certificate)
        return isinstance(outcome, TopicRefused)
