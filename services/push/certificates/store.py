"""The push certificates that this process knows, in memory, and pushes with one that APNs takes.

Promises: of one topic the certificate installed last is tried first, unless a file of the settings was
issued later; the next one is used while APNs refuses it, and it is tried again every quarter of an hour;
an expired certificate is never pushed with; a refused certificate costs no push while another one of its
topic works; what APNs says of a device ends the search.
"""

import ssl
from collections.abc import Callable, KeysView, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from services.push.send.apns import Push
from services.push.send.outcomes import (
    Accepted,
    Outcome,
    Retry,
    TopicRefused,
    Unanswered,
    Unreachable,
)
from services.push.send.topics import NoCertificate, Stops
from shared.ports.certificates import InstalledPair, TopicVersion
from shared.ports.clock import Clock
from shared.security.push_certificate import RENEWAL, PushCertificate, default_topic, read_pair

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Installed:
    """A topic as it is in the store, read and found usable. `before`: `newest` is not proven yet."""

    version: TopicVersion
    newest: PushCertificate
    installed_at: datetime
    before: PushCertificate | None = None


def parsed(pair: InstalledPair) -> PushCertificate:
    """Raises BadRequest where it is none."""
    return read_pair(pair.certificate_pem, pair.key_pem)


class CertificateStore:
    """`show` takes the number of certificates that APNs refuses while another one serves."""

    def __init__(
        self,
        files: Mapping[str, PushCertificate],
        clock: Clock,
        show: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.files = files
        self.installed: dict[str, Installed] = {}
        self._clock = clock
        self._ranked: dict[str, tuple[PushCertificate, ...]] = {}
        self._refused = Stops(clock, show)
        self._proven: set[str] = set()
        self.learn({})

    @property
    def topics(self) -> KeysView[str]:
        """A view that follows every change."""
        return self._ranked.keys()

    @property
    def default(self) -> str | None:
        """The topic that devices are to enroll under."""
        versions = [each.version for each in self.installed.values()]
        return default_topic(versions, next(iter(self.files), None))

    def ranked(self, topic: str) -> tuple[PushCertificate, ...]:
        """Its certificates, the preferred one first, expired ones too."""
        return self._ranked.get(topic, ())

    def learn(self, installed: Mapping[str, Installed]) -> None:
        """From now on these are installed, and no others."""
        self.installed = dict(installed)
        topics = [*self.files, *(topic for topic in installed if topic not in self.files)]
        ranked = {t: _ranked(self.installed.get(t), self.files.get(t)) for t in topics}
        for topic in self._ranked.keys() - ranked.keys():
            del self._ranked[topic]
        self._ranked |= ranked
        known = {each.fingerprint for every in ranked.values() for each in every}
        self._proven &= known
        self._refused.keep(known)

    def candidates(self, topic: str) -> list[PushCertificate]:
        """The certificates to push with, one after the other until one works."""
        now = self._clock.now()
        valid = [each for each in self.ranked(topic) if not each.has_expired(now)]
        return [each for each in valid if self._refused.reason(each.fingerprint) is None] or valid

    def is_proven(self, certificate: PushCertificate) -> bool:
        """APNs has taken a push with it, from this process."""
        return certificate.fingerprint in self._proven

    def accepted(self, certificate: PushCertificate) -> None:
        self._proven.add(certificate.fingerprint)
        if self._refused.remove(certificate.fingerprint):
            log.info("push_certificate_works_again", **_named(certificate))

    def refused(self, certificate: PushCertificate, reason: str) -> None:
        """Another one of its topic served instead."""
        if self._refused.add(certificate.fingerprint, reason):
            log.error("push_certificate_refused", reason=reason, **_named(certificate))


def _ranked(
    installed: Installed | None, file: PushCertificate | None
) -> tuple[PushCertificate, ...]:
    if installed is None:
        return () if file is None else (file,)
    ranked = [each for each in (installed.newest, installed.before) if each is not None]
    if file is not None and file.fingerprint not in {each.fingerprint for each in ranked}:
        is_later = file.not_before > installed.newest.not_before
        ranked.insert(0 if is_later else len(ranked), file)
    return tuple(ranked)


def _named(certificate: PushCertificate) -> dict[str, str]:
    return {"topic": certificate.topic, "serial_number": certificate.serial_number}


class ApnsConnections(Protocol):
    """Connections with APNs, one per certificate, by its fingerprint."""

    async def use(self, contexts: Mapping[str, ssl.SSLContext]) -> None: ...
    async def push(self, push: Push, certificate: str) -> Outcome: ...


class CertifiedSender:
    def __init__(self, apns: ApnsConnections, certificates: CertificateStore) -> None:
        self._apns = apns
        self._certificates = certificates

    async def push(self, push: Push) -> Outcome:
        outcome: Outcome = NoCertificate(f"the push certificate has expired; {RENEWAL}")
        passed: list[tuple[PushCertificate, str]] = []
        for certificate in self._certificates.candidates(push.topic):
            outcome = await self._apns.push(push, certificate.fingerprint)
            if isinstance(outcome, Accepted):
                self._certificates.accepted(certificate)
            # A TLS server may refuse a certificate without an answer.
            is_mute = isinstance(outcome, Unanswered) and not self._certificates.is_proven(
                certificate
            )
            if not (is_mute or isinstance(outcome, TopicRefused)):
                break
            if isinstance(outcome, TopicRefused | Unreachable):
                passed.append((certificate, outcome.reason))
        if not isinstance(outcome, TopicRefused | Retry):
            for certificate, reason in passed:
                self._certificates.refused(certificate, reason)
        return outcome
