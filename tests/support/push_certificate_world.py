"""Push certificates on fakes: replicas that share a store, and an APNs that knows certificates."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from services.push.certificates.install import Installation
from services.push.certificates.rotation import Rotation
from services.push.certificates.store import CertificateStore, CertifiedSender
from services.push.certificates.tls import ClientContexts
from services.push.send.apns import Push
from services.push.send.outcomes import Accepted, Outcome
from services.push.send.topics import Topics
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, PushTarget
from shared.security.push_certificate import PushCertificate, read_pair
from shared.telemetry.metrics import Metrics
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.push_certificates import FakeEnrolledTopics, FakePushCertificates
from tests.support.harness.push_certificates import TOPIC, PushAuthority

DAY = timedelta(days=1)
OTHER = "com.apple.mgmt.External.other"


@dataclass
class FakeLines:
    """One replica's connections: what APNs says of each certificate, by fingerprint."""

    says: dict[str, Outcome] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    used: Mapping[str, ssl.SSLContext] = field(default_factory=dict)

    async def use(self, contexts: Mapping[str, ssl.SSLContext]) -> None:
        self.used = contexts

    async def push(self, push: Push, certificate: str) -> Outcome:
        self.asked.append(certificate)
        return self.says.get(certificate, Accepted("apns-id"))


class World:
    """What all replicas share."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.ids = FakeIds()
        self.authority = PushAuthority(folder)
        self.store = FakePushCertificates()
        self.enrollments = FakeEnrollments()
        self._issued = 0

    def issue(self, topic: str = TOPIC, *, begins: int = -1, ends: int = 365) -> PushCertificate:
        """`begins`, `ends`: days from now."""
        self._issued += 1
        now = self.clock.now()
        files = self.authority.issue(
            topic,
            not_before=now + begins * DAY,
            not_after=now + ends * DAY,
            name=f"pair-{self._issued}",
        )
        return read_pair(files.certificate.read_bytes(), files.key.read_bytes())

    def enroll(self, device: str, topic: str = TOPIC) -> None:
        self.enrollments.add(
            Enrollment(
                EnrollmentKey(device, device, udid=device),
                EnrollmentStatus.ENROLLED,
                push=PushTarget(topic, device.encode(), "magic"),
            )
        )


class Replica:
    """One push process; `files` are those of its settings."""

    def __init__(self, world: World, *files: PushCertificate) -> None:
        self.world = world
        self.metrics = Metrics()
        self.lines = FakeLines()
        self.certificates = CertificateStore(
            {each.topic: each for each in files},
            world.clock,
            self.metrics.push_certificates_refused.set,
        )
        self.topics = Topics(self.certificates.topics, world.clock, lambda _: None)
        self.sender = CertifiedSender(self.lines, self.certificates)
        self.rotation = Rotation(
            self.certificates,
            world.store,
            self.lines,
            self.topics,
            ClientContexts(None),
            self.metrics,
            world.clock,
            world.ids,
        )
        self.installation = Installation(
            self.certificates,
            self.rotation,
            world.store,
            FakeEnrolledTopics(world.enrollments),
            world.clock,
            world.ids,
        )

    async def install(self, pair: PushCertificate, force_topic: str | None = None) -> list[str]:
        return await self.installation.install(pair, force_topic)

    async def push(self, topic: str = TOPIC) -> Outcome:
        expires_at = self.world.clock.now() + DAY
        return await self.sender.push(Push(topic, b"token", "magic", expires_at))

    def asked(self) -> list[str]:
        """With which certificates APNs was asked since the last time."""
        asked, self.lines.asked = self.lines.asked, []
        return asked

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"macromdm_{name}", labels)
