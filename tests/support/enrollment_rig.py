"""The routes of enrollment on fakes, and a device that goes through them."""

import plistlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from services.checkin.enrollment.identity_payload import IdentityPayloads, OurScep
from services.checkin.enrollment.ota import OverTheAir
from services.checkin.enrollment.profiles import (
    EnrollmentProfiles,
    EnrollmentRules,
)
from services.checkin.enrollment.routes import TAG, EnrollTokens, router
from services.checkin.scep.certificate_status import CertificateStatuses
from shared.apple.profiles.payloads import Look
from shared.concurrency.heavy_work import HeavyWork
from shared.security.apple_device import AppleDevices
from shared.security.challenges import ScepChallenges
from shared.security.identity import DeviceIdentities
from shared.security.signature.profile_signing import ProfileSigner
from shared.telemetry.metrics import Metrics
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.challenges import FakeChallenges
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.issued import FakeIssuedCertificates
from tests.support.fakes.profiles import FakeProfiles, FakePushTopics
from tests.support.harness.identities import DeviceIdentity, FleetAuthority, envelope, signer_info

URL = "https://mdm.example.com"
SUBJECT = (("O", "Example"), ("CN", "Example Identity"))
VALIDITY = timedelta(hours=1)
MAX_BODY = 64 * 1024
RULES = EnrollmentRules(URL, Look("Example", "com.example"), "Enrollment", 8191, True)

APPLE = FleetAuthority("Apple iPhone Device CA")
OURS = FleetAuthority("Our CA")


def attached(identity: DeviceIdentity, content: bytes, *, attributes: bool = True) -> bytes:
    """A CMS (DER) that holds its content."""
    info = signer_info(identity, content, "sha256", attributes=attributes)
    return envelope([info], [identity], content=content)


@dataclass
class Rig:
    """One check-in service's enrollment, with everything that it works with."""

    rules: EnrollmentRules = RULES
    apple: AppleDevices = field(default_factory=AppleDevices)
    static: str | None = None
    tokens: Sequence[str] = ()
    signer: ProfileSigner | None = None
    identities: IdentityPayloads | None = None
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)
    challenges: FakeChallenges = field(default_factory=FakeChallenges)
    profiles: FakeProfiles = field(default_factory=FakeProfiles)
    topics: FakePushTopics = field(default_factory=FakePushTopics)
    issued: FakeIssuedCertificates = field(default_factory=FakeIssuedCertificates)
    enrollments: FakeEnrollments = field(default_factory=FakeEnrollments)

    def __post_init__(self) -> None:
        static = None if self.static is None else SecretStr(self.static)
        self.book = ScepChallenges(self.challenges, self.clock, validity=VALIDITY, static=static)
        profiles = EnrollmentProfiles(
            self.rules,
            identities=self.identities or OurScep(self.book, f"{URL}/scep", SUBJECT),
            challenges=self.book,
            stored=self.profiles,
            topics=self.topics,
            ids=self.ids,
            signer=self.signer,
        )
        trusted = DeviceIdentities([OURS.certificate], self.clock)
        statuses = CertificateStatuses(self.enrollments, self.issued)
        work = HeavyWork("signed requests")
        ota = OverTheAir(profiles, self.book, statuses, self.apple, trusted, work)
        routes = router(profiles, ota, EnrollTokens(self.tokens), MAX_BODY)

        async def run() -> None:
            """No work in the background."""

        service = Service("checkin", routes, run, openapi_tags=[TAG])
        app = create_app([service], max_body=MAX_BODY, metrics=Metrics())
        transport = httpx.ASGITransport(app=app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def profile(self, path: str = "/mdm/enroll", **request: Any) -> dict[str, Any]:
        """What GET (with content: POST) answers, read."""
        method = "POST" if "content" in request else "GET"
        answer = await self.http.request(method, path, **request)
        assert answer.status_code == 200, answer.text
        return dict(plistlib.loads(answer.content))


def payload(profile: dict[str, Any], kind: str) -> dict[str, Any]:
    """The one payload of this type."""
    [found] = [each for each in profile["PayloadContent"] if each["PayloadType"] == kind]
    return dict(found)


def scep(profile: dict[str, Any]) -> dict[str, Any]:
    """What the SCEP payload holds."""
    return dict(payload(profile, "com.apple.security.scep")["PayloadContent"])


def mdm(profile: dict[str, Any]) -> dict[str, Any]:
    return payload(profile, "com.apple.mdm")


def machine(**said: object) -> bytes:
    """What a device says of itself, as a property list."""
    return plistlib.dumps({"UDID": "UDID-1", "SERIAL": "C02", "PRODUCT": "Mac16,1"} | said)
