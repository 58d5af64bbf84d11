"""The push certificates that this process knows, and those to push with; in memory.

Promises: of one topic the certificate installed last is tried first, unless a file of the settings was
issued later; what stands behind it is used while APNs refuses it, and it is tried again every quarter
of an hour; an expired certificate is never pushed with.
"""

from collections.abc import Callable, KeysView, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from shared.ports.certificates import InstalledPair, TopicVersion
from shared.ports.clock import Clock
from shared.security.push_certificate import PushCertificate, read_pair
from shared.security.push_topic import default_topic

log = structlog.get_logger()

PAUSE = timedelta(minutes=15)
PROBE = timedelta(minutes=1)
"""The others wait so long for the outcome of one that is tried again."""


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


class CertificateBook:
    """`show` is told how many certificates APNs refuses while another one serves."""

    def __init__(
        self,
        files: Mapping[str, PushCertificate],
        clock: Clock,
        show: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.files = files
        self.installed: dict[str, Installed] = {}
        self._clock = clock
        self._show = show
        self._ranked: dict[str, tuple[PushCertificate, ...]] = {}
        self._refused: dict[str, float] = {}
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
        self._refused = {each: at for each, at in self._refused.items() if each in known}
        self._show(len(self._refused))

    def candidates(self, topic: str) -> list[PushCertificate]:
        """The certificates to push with, one after the other until one works."""
        now = self._clock.now()
        valid = [each for each in self.ranked(topic) if not each.has_expired(now)]
        return [each for each in valid if self._is_its_turn(each)] or valid

    def is_proven(self, certificate: PushCertificate) -> bool:
        """APNs has taken a push with it, from this process."""
        return certificate.fingerprint in self._proven

    def accepted(self, certificate: PushCertificate) -> None:
        self._proven.add(certificate.fingerprint)
        if self._refused.pop(certificate.fingerprint, None) is not None:
            log.info("push_certificate_works_again", **_named(certificate))
            self._show(len(self._refused))

    def refused(self, certificate: PushCertificate, reason: str) -> None:
        """Another one of its topic served instead."""
        if certificate.fingerprint not in self._refused:
            log.error("push_certificate_refused", reason=reason, **_named(certificate))
        until = self._clock.monotonic() + PAUSE.total_seconds()
        self._refused[certificate.fingerprint] = until
        self._show(len(self._refused))

    def _is_its_turn(self, certificate: PushCertificate) -> bool:
        until = self._refused.get(certificate.fingerprint)
        if until is None:
            return True
        now = self._clock.monotonic()
        if now < until:
            return False
        self._refused[certificate.fingerprint] = now + PROBE.total_seconds()
        return True


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
