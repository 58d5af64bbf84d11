"""The profiles that devices fetch to enroll, as bytes.

Promises: each has new UUIDs and a challenge of its own; one that the operator stored under a
reserved identifier is served in its place, unchanged; what is not signed yet is signed where the
operator gave a certificate for it. Parameters of the enrollment's URL come back in ServerURL and
CheckInURL, and so in every event of the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from services.checkin.enrollment.identity_payload import IdentityPayloads, VouchedDevice
from shared.apple.plist import read as plist
from shared.apple.plist import write as plist_writer
from shared.apple.profiles.payloads import (
    Look,
    Mdm,
    Payload,
    Scep,
    authority_payload,
    configuration,
    mdm_payload,
    profile_service,
    scep_payload,
    with_parameters,
)
from shared.domain.errors import BadRequest
from shared.ports.access import Profiles, Reserved
from shared.ports.certificates import PushTopics
from shared.ports.clock import Ids
from shared.security.challenges import ScepChallenges
from shared.security.signature.profile_signing import ProfileSigner

log = structlog.get_logger()

IDENTITY = "Device Management Identity Certificate"
OTA_IDENTITY = "OTA Phase 2 Certificate"


@dataclass(frozen=True, slots=True)
class EnrollmentRules:
    """The operator's decisions about profiles. `trusted` are CA certificates (DER) for devices,
    `subject` is what they ask for in a renewal."""

    server_url: str
    look: Look
    name: str
    access_rights: int
    check_out_when_removed: bool
    trusted: Sequence[bytes] = ()
    subject: Sequence[tuple[str, str]] = ()

    @property
    def scep_url(self) -> str:
        return f"{self.server_url}/scep"


class EnrollmentProfiles:
    """Makes or finds the profiles. Each method raises StoreUnavailable."""

    def __init__(
        self,
        rules: EnrollmentRules,
        identities: IdentityPayloads,
        challenges: ScepChallenges,
        stored: Profiles,
        topics: PushTopics,
        ids: Ids,
        signer: ProfileSigner | None = None,
    ) -> None:
        self._rules = rules
        self._identities = identities
        self._challenges = challenges
        self._stored = stored
        self._topics = topics
        self._ids = ids
        self._signer = signer

    async def enrollment(self, parameters: Mapping[str, str], device: VouchedDevice) -> bytes:
        """The profile that enrolls a device: identity and MDM payload, and CAs to trust."""
        if (stored := await self._replacement(Reserved.ENROLL)) is not None:
            return stored
        look = self._look("enroll")
        identity = await self._identities.make(look, self._ids.new(), device, IDENTITY)
        return await self._enrollment(look, identity, parameters)

    async def _enrollment(
        self, look: Look, identity: Payload, parameters: Mapping[str, str]
    ) -> bytes:
        topic = await self._topics.current()
        if topic is None:
            log.warning("enrollment_without_topic", reason="there is no push certificate")
        mdm = Mdm(
            server_url=with_parameters(f"{self._rules.server_url}/mdm/connect", parameters),
            check_in_url=with_parameters(f"{self._rules.server_url}/mdm/checkin", parameters),
            topic=topic or "",
            identity=identity["PayloadUUID"],
            access_rights=self._rules.access_rights,
            check_out_when_removed=self._rules.check_out_when_removed,
        )
        payloads = [identity, mdm_payload(look, self._ids.new(), mdm)]
        for number, der in enumerate(self._rules.trusted):
            payloads.append(authority_payload(look, self._ids.new(), der, number))
        profile = configuration(look, self._ids.new(), self._rules.name, payloads)
        return self._signed(plist_writer.write(profile))

    async def can_renew(self) -> bool:
        """True if the enrollment profile has a place for our challenge."""
        stored = await self._stored.get(Reserved.ENROLL)
        return stored is None or self._with_challenge(stored.mobileconfig, "") is not None

    async def renewal(self, parameters: Mapping[str, str], challenge: str) -> bytes | None:
        """The profile that enrolled a device, by whose identifier the device knows it again, with a
        challenge for its next identity; None where the profile has no place for one."""
        stored = await self._stored.get(Reserved.ENROLL)
        if stored is not None:
            profile = self._with_challenge(stored.mobileconfig, challenge)
            return None if profile is None else self._signed(profile)
        look = self._look("enroll")
        scep = Scep(self._rules.scep_url, self._rules.subject, challenge, IDENTITY)
        return await self._enrollment(look, scep_payload(look, self._ids.new(), scep), parameters)

    def _with_challenge(self, mobileconfig: bytes, challenge: str) -> bytes | None:
        """An operator's own profile, where its SCEP payload asks our server and it is not signed."""
        try:
            profile = plist.parse(mobileconfig)
        except BadRequest:
            return None
        payloads = profile.get("PayloadContent")
        found = False
        for payload in payloads if isinstance(payloads, list) else ():
            content = payload.get("PayloadContent") if isinstance(payload, dict) else None
            if isinstance(content, dict) and content.get("URL") == self._rules.scep_url:
                content["Challenge"] = challenge
                found = True
        return plist.dump(profile) if found else None

    async def profile_service(self, parameters: Mapping[str, str]) -> bytes:
        """The first profile of over-the-air enrollment, with a one-time challenge."""
        if (stored := await self._replacement(Reserved.OTA)) is not None:
            return stored
        url = with_parameters(f"{self._rules.server_url}/ota/phase23", parameters)
        challenge = await self._challenges.issue_once()
        profile = profile_service(self._look("ota"), self._ids.new(), url, challenge)
        return self._signed(plist_writer.write(profile))

    async def ota_identity(self, device: VouchedDevice) -> bytes:
        """The second profile of over-the-air enrollment: an identity and nothing else."""
        if (stored := await self._replacement(Reserved.OTA_PHASE_2)) is not None:
            return stored
        look = self._look("ota.phase2")
        identity = await self._identities.make(look, self._ids.new(), device, OTA_IDENTITY)
        profile = configuration(look, self._ids.new(), "OTA Phase 2", [identity])
        return self._signed(plist_writer.write(profile))

    async def _replacement(self, identifier: Reserved) -> bytes | None:
        found = await self._stored.get(identifier)
        return None if found is None else self._signed(found.mobileconfig)

    def _look(self, name: str) -> Look:
        look = self._rules.look
        return replace(look, identifier=f"{look.identifier}.{name}")

    def _signed(self, profile: bytes) -> bytes:
        """Signed by us, unless it is signed already (a CMS begins with a SEQUENCE)."""
        signer = self._signer
        return profile if signer is None or profile[:1] == b"\x30" else signer.sign(profile)
