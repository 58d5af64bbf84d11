"""Install, replace and remove push certificates without losing devices.

Promises: a certificate that is refused leaves nothing behind; a topic that no certificate was for
joins the others, and is the one that devices are to enroll under from then on, only while nobody is
enrolled under another one, or by its name in `force_topic`: a certificate that was renewed under
another Apple Account looks just like that; a topic with enrolled devices goes only by its name.
"""

from dataclasses import dataclass
from pathlib import Path

from services.push.certificates.rotation import Rotation
from services.push.certificates.store import CertificateBook, parsed
from services.push.certificates.tls import WARN_BEFORE, client_context
from shared.domain.errors import BadRequest, CannotDecrypt, Conflict, NotFound, Overtaken
from shared.ports.certificates import (
    EnrolledTopics,
    InstalledPair,
    InstalledTopic,
    PushCertificates,
    TopicVersion,
)
from shared.ports.clock import Clock, Ids
from shared.security.push_certificate import RENEWAL, PushCertificate, refusal

MOST_TOPICS = 32
TRIES = 5
"""Attempts of a change that others overtake."""


@dataclass(frozen=True, slots=True)
class InstallationParts:
    """`trusted`: CAs for APNs instead of the public ones."""

    installed: PushCertificates
    enrolled: EnrolledTopics
    clock: Clock
    ids: Ids
    trusted: Path | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All that is known, fresh: devices by the topic that they are enrolled under."""

    book: CertificateBook
    enrolled: dict[str, int]


class Installation:
    def __init__(self, book: CertificateBook, rotation: Rotation, parts: InstallationParts) -> None:
        self._book = book
        self._rotation = rotation
        self._parts = parts

    async def install(self, pair: PushCertificate, force_topic: str | None) -> list[str]:
        """The warnings for the operator. Raises BadRequest, Conflict, StoreUnavailable."""
        pair.must_be_valid(self._parts.clock.now())
        client_context(pair, self._parts.trusted)
        if force_topic not in {None, pair.topic}:
            raise refusal("force_topic", f"is not the certificate's topic, {pair.topic}")
        await self._rotation.look()
        enrolled = await self._parts.enrolled.count()
        topics = await self._topics()
        is_new = pair.topic not in topics
        if is_new and len(topics) >= MOST_TOPICS:
            raise Conflict(f"there are {len(topics)} topics; remove one of them first")
        if is_new and force_topic is None:
            _must_move_nobody(pair.topic, enrolled)
        await self._put(pair, is_chosen=is_new or force_topic is not None)
        await self._rotation.look()
        return [*self.expiry(pair), *self._uncovered(enrolled)]

    async def remove(self, topic: str, force_topic: str | None) -> None:
        """Raises NotFound for what was not installed by API, Conflict, StoreUnavailable."""
        enrolled = await self._parts.enrolled.count()
        for _ in range(TRIES):
            version = await self._version(topic)
            if version is None:
                raise NotFound(f"no push certificate of topic {topic[:200]} was installed by API")
            file = self._book.files.get(topic)
            is_covered = file is not None and not file.has_expired(self._parts.clock.now())
            devices = 0 if is_covered else enrolled.get(topic, 0)
            if devices and force_topic != topic:
                raise Conflict(
                    f"{devices} enrolled devices could not be pushed any more; to remove the "
                    f"certificate all the same, repeat with ?force_topic={topic}"
                )
            if await self._parts.installed.remove(topic, version.revision):
                return await self._rotation.look()
        raise Overtaken("others change the push certificates at the same time")

    async def shown(self, topic: str | None) -> PushCertificate:
        """The newest certificate of a topic, or of the one that devices are to enroll under.
        Raises NotFound."""
        await self._rotation.look()
        name = topic or self._book.default
        if name is None or not self._book.ranked(name):
            of = f" of topic {topic[:200]}" if topic else ""
            raise NotFound(f"there is no push certificate{of}")
        return self._book.ranked(name)[0]

    async def listing(self) -> Listing:
        await self._rotation.look()
        return Listing(self._book, await self._parts.enrolled.count())

    def expiry(self, certificate: PushCertificate) -> list[str]:
        """A warning, from 60 days before the end on."""
        remaining = certificate.remaining(self._parts.clock.now())
        if remaining > WARN_BEFORE:
            return []
        ends = f"{max(0, remaining.days)} days ({certificate.not_after.isoformat()})"
        return [f"the push certificate of {certificate.topic} ends in {ends}; {RENEWAL}"]

    def _uncovered(self, enrolled: dict[str, int]) -> list[str]:
        return [
            f"{devices} enrolled devices have topic {topic}, for which there is no push certificate"
            for topic, devices in sorted(enrolled.items())
            if not self._book.candidates(topic)
        ]

    async def _put(self, pair: PushCertificate, *, is_chosen: bool) -> None:
        ids = self._parts.ids
        for _ in range(TRIES):
            version, stored = await self._stored(pair.topic)
            there = _parsed(stored.newest) if stored else None
            if there == pair and not is_chosen:
                return  # the same once more
            chosen = ids.new() if is_chosen else version.chosen if version else None
            wanted = InstalledTopic(
                TopicVersion(pair.topic, ids.new(), chosen),
                InstalledPair(pair.certificate_pem, pair.key_pem, self._parts.clock.now()),
                self._before(stored, pair),
            )
            if await self._parts.installed.put(wanted, version.revision if version else None):
                return
        raise Overtaken("others change the push certificates at the same time")

    def _before(self, stored: InstalledTopic | None, pair: PushCertificate) -> InstalledPair | None:
        """The pair in use now: the one that a certificate that was never proven was to replace, or that."""
        if stored is None:
            return None
        now = self._parts.clock.now()
        for each in (stored.before, stored.newest):
            known = None if each is None else _parsed(each)
            if known is None or known.fingerprint == pair.fingerprint or known.has_expired(now):
                continue
            return each
        return None

    async def _stored(self, topic: str) -> tuple[TopicVersion | None, InstalledTopic | None]:
        """A pair that no key decrypts any more has a version, and may be replaced."""
        version = await self._version(topic)
        if version is None:
            return None, None
        try:
            stored = await self._parts.installed.load(topic)
        except CannotDecrypt:
            return version, None
        return (None, None) if stored is None else (stored.version, stored)

    async def _version(self, topic: str) -> TopicVersion | None:
        found = await self._parts.installed.versions()
        return next((each for each in found if each.topic == topic), None)

    async def _topics(self) -> set[str]:
        """The topics with a certificate, even one that this process cannot use."""
        installed = {each.topic for each in await self._parts.installed.versions()}
        return installed | self._book.topics


def _must_move_nobody(topic: str, enrolled: dict[str, int]) -> None:
    others = {each: devices for each, devices in enrolled.items() if each != topic}
    if not others:
        return
    named = ", ".join(f"{devices} under {each}" for each, devices in sorted(others.items())[:10])
    raise Conflict(
        f"the certificate is of topic {topic}, but {sum(others.values())} devices are enrolled under "
        f"another one ({named}) and would not follow; was it renewed under another Apple Account? "
        f"To install it beside what there is, repeat with ?force_topic={topic}"
    )


def _parsed(stored: InstalledPair) -> PushCertificate | None:
    try:
        return parsed(stored)
    except BadRequest:
        return None
