"""Install, replace and remove push certificates without losing devices.

Promises: a certificate that is refused leaves nothing behind; a new topic joins the others, and becomes
the one that devices enroll under, only while no device is enrolled under another one, or by its name in
`force_topic`: a certificate that was renewed under another Apple Account looks just like that; a topic
with enrolled devices goes only by its name.
"""

from contextlib import suppress
from pathlib import Path

from services.push.certificates.rotation import WARN_BEFORE, Rotation
from services.push.certificates.schemas import PushCertificateList, push_certificate_list
from services.push.certificates.store import CertificateStore, parsed
from services.push.certificates.tls import client_context
from shared.domain.errors import BadRequest, CannotDecrypt, Conflict, NotFound, Overtaken
from shared.ports.certificates import (
    EnrolledTopics,
    InstalledPair,
    InstalledTopic,
    PushCertificates,
    TopicVersion,
)
from shared.ports.clock import Clock, Ids
from shared.security.push_certificate import RENEWAL, PushCertificate, bad_pair

MOST_TOPICS = 32
TRIES = 5
"""Attempts of a change that others overtake."""


class Installation:
    """`trusted`: CAs for APNs instead of the public ones."""

    def __init__(
        self,
        certificates: CertificateStore,
        rotation: Rotation,
        installed: PushCertificates,
        enrolled: EnrolledTopics,
        clock: Clock,
        ids: Ids,
        trusted: Path | None = None,
    ) -> None:
        self._certificates = certificates
        self._rotation = rotation
        self._installed = installed
        self._enrolled = enrolled
        self._clock = clock
        self._ids = ids
        self._trusted = trusted

    async def install(self, pair: PushCertificate, force_topic: str | None) -> list[str]:
        """The warnings for the operator. Raises BadRequest, Conflict, StoreUnavailable."""
        pair.must_be_valid(self._clock.now())
        client_context(pair, self._trusted)
        if force_topic not in {None, pair.topic}:
            raise bad_pair("force_topic", f"is not the certificate's topic, {pair.topic}")
        await self._rotation.look()
        enrolled = await self._enrolled.count()
        # Also those whose certificate this process cannot use.
        versions = await self._installed.versions()
        topics = {each.topic for each in versions} | self._certificates.topics
        is_new = pair.topic not in topics
        if is_new and len(topics) >= MOST_TOPICS:
            raise Conflict(f"there are {len(topics)} topics; remove one of them first")
        if is_new and force_topic is None:
            _must_move_no_device(pair.topic, enrolled)
        await self._put(pair, is_chosen=is_new or force_topic is not None)
        await self._rotation.look()
        uncovered = [
            f"{devices} enrolled devices have topic {topic}, for which there is no push certificate"
            for topic, devices in sorted(enrolled.items())
            if not self._certificates.candidates(topic)
        ]
        return [*self.expiry(pair), *uncovered]

    async def remove(self, topic: str, force_topic: str | None) -> None:
        """Raises NotFound for what was not installed by API, Conflict, StoreUnavailable."""
        enrolled = await self._enrolled.count()
        for _ in range(TRIES):
            version = await self._version(topic)
            if version is None:
                raise NotFound(f"no push certificate of topic {topic[:200]} was installed by API")
            file = self._certificates.files.get(topic)
            is_covered = file is not None and not file.has_expired(self._clock.now())
            devices = 0 if is_covered else enrolled.get(topic, 0)
            if devices and force_topic != topic:
                raise Conflict(
                    f"{devices} enrolled devices could not be pushed any more; to remove the "
                    f"certificate all the same, repeat with ?force_topic={topic}"
                )
            if await self._installed.remove(topic, version.revision):
                return await self._rotation.look()
        raise Overtaken("others change the push certificates at the same time")

    async def shown(self, topic: str | None) -> PushCertificate:
        """The newest certificate of a topic; None: of the default one. Raises NotFound."""
        await self._rotation.look()
        name = topic or self._certificates.default
        if name is None or not self._certificates.ranked(name):
            of = f" of topic {topic[:200]}" if topic else ""
            raise NotFound(f"there is no push certificate{of}")
        return self._certificates.ranked(name)[0]

    async def listing(self) -> PushCertificateList:
        """All push certificates, and how many devices are enrolled under each topic."""
        await self._rotation.look()
        enrolled = await self._enrolled.count()
        return push_certificate_list(self._certificates, enrolled, self._clock.now())

    def expiry(self, certificate: PushCertificate) -> list[str]:
        """A warning, from 60 days before the end on."""
        remaining = certificate.remaining(self._clock.now())
        if remaining > WARN_BEFORE:
            return []
        ends = f"{max(0, remaining.days)} days ({certificate.not_after.isoformat()})"
        return [f"the push certificate of {certificate.topic} ends in {ends}; {RENEWAL}"]

    async def _put(self, pair: PushCertificate, *, is_chosen: bool) -> None:
        for _ in range(TRIES):
            version, stored = await self._version(pair.topic), None
            if version is not None:
                # A pair that no key decrypts any more has a version, and may be replaced.
                with suppress(CannotDecrypt):
                    stored = await self._installed.load(pair.topic)
                    version = None if stored is None else stored.version
            there = _parsed(stored.newest) if stored else None
            if there == pair and not is_chosen:
                return  # the same once more
            chosen = self._ids.new() if is_chosen else version.chosen if version else None
            wanted = InstalledTopic(
                TopicVersion(pair.topic, self._ids.new(), chosen),
                InstalledPair(pair.certificate_pem, pair.key_pem, self._clock.now()),
                self._before(stored, pair),
            )
            if await self._installed.put(wanted, version.revision if version else None):
                return
        raise Overtaken("others change the push certificates at the same time")

    def _before(self, stored: InstalledTopic | None, pair: PushCertificate) -> InstalledPair | None:
        """The pair in use now: the newest, or the one before it while the newest is not proven."""
        now = self._clock.now()
        for each in (stored.before, stored.newest) if stored else ():
            known = None if each is None else _parsed(each)
            if known and known.fingerprint != pair.fingerprint and not known.has_expired(now):
                return each
        return None

    async def _version(self, topic: str) -> TopicVersion | None:
        found = await self._installed.versions()
        return next((each for each in found if each.topic == topic), None)


def _must_move_no_device(topic: str, enrolled: dict[str, int]) -> None:
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
