"""Over-the-air enrollment (Apple: Profile Service): the device says, signed, what it is.

Phase 2: signed with the key that Apple made the device with. The challenge of the first profile, inside
what was signed, lets it in, once; the answer is a profile with an identity and nothing else. Phase 3:
signed with that identity; the answer is the enrollment profile.

Promises: an answer is given only for a good signature over exactly what was sent. With MDM_OTA_DEVICE_CA
phase 2 is served to certificates of that CA only, and its challenge is good for that device alone;
without, the challenge is all that counts, and the UDID is taken for nothing. A challenge that was made
for a device stays that device's. Phase 3 is served to valid certificates of the trusted CAs only, that
were not replaced and whose device is not blocked. What is refused uses up no challenge, unless the
challenge itself was the last thing to be checked.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from services.checkin.answers import DeviceRefused
from services.checkin.enrollment.identity_payload import ANY_DEVICE, VouchedDevice
from services.checkin.enrollment.profiles import EnrollmentProfiles
from services.checkin.scep.certificate_status import CertificateStatuses
from shared.apple.plist import read as plist
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import BadRequest
from shared.security.apple_device import AppleDevices
from shared.security.challenges import LONGEST, Grant, ScepChallenges
from shared.security.identity import DeviceIdentities
from shared.security.signature.signers import Signer, open_signed
from shared.telemetry.metrics import Reason

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Said:
    device: VouchedDevice
    challenge: str = field(repr=False)
    signer: Signer

    @property
    def transaction(self) -> str:
        """The same for a device that repeats its request, another one for every other."""
        parts = (self.signer.certificate, (self.device.udid or "").encode())
        digests = b"".join(hashlib.sha256(part).digest() for part in parts)
        return "ota-" + hashlib.sha256(digests).hexdigest()


class OverTheAir:
    """Answers phases 2 and 3. `work` does the arithmetic."""

    def __init__(
        self,
        profiles: EnrollmentProfiles,
        challenges: ScepChallenges,
        statuses: CertificateStatuses,
        apple: AppleDevices,
        identities: DeviceIdentities,
        work: HeavyWork,
    ) -> None:
        self._profiles = profiles
        self._challenges = challenges
        self._statuses = statuses
        self._apple = apple
        self._identities = identities
        self._work = work

    async def vouched_device(self, body: bytes) -> VouchedDevice:
        """The device that Apple's certificate vouches for in a POST of /mdm/enroll (Apple: MachineInfo). Any
        client may fetch that profile, so a body that says nothing for sure is no reason to refuse."""
        if not body or not self._apple.are_known:
            return ANY_DEVICE
        return await self._work.do(_vouched_device, body, self._apple)

    async def answer(self, body: bytes, parameters: Mapping[str, str]) -> bytes:
        """The next profile. Raises DeviceRefused, StoreUnavailable."""
        said = await self._work.do(_read, body)
        if await self._work.do(self._apple.vouches, said.signer.certificate):
            grant = await self._redeem(said)
            udid, serial_number = said.device.udid, said.device.serial_number
            if grant.udid not in (None, udid) or grant.serial_number not in (None, serial_number):
                raise DeviceRefused(Reason.UNAUTHENTICATED, "CHALLENGE: made for another device")
            return await self._profiles.ota_identity(said.device)
        try:
            identity = await self._work.do(
                self._identities.identify, said.signer.certificate, said.signer.others
            )
        except BadRequest as exc:
            if self._apple.are_known:
                raise DeviceRefused(Reason.CERTIFICATE, str(exc)) from None
            grant = await self._redeem(said)
            bound = VouchedDevice(grant.udid, grant.serial_number)
            return await self._profiles.ota_identity(bound)
        return await self._profiles.enrollment(parameters, await self._bound_to(identity))

    async def _bound_to(self, identity: str) -> VouchedDevice:
        """The device of the challenge of phase 2; later statements of the device do not count."""
        status = await self._statuses.of(identity)
        if status.objection is not None:
            raise DeviceRefused(Reason.CERTIFICATE, status.objection)
        found = status.issued
        return ANY_DEVICE if found is None else VouchedDevice(found.udid, found.serial_number)

    async def _redeem(self, said: _Said) -> Grant:
        grant = await self._challenges.redeem(said.challenge, by=said.transaction)
        if grant is None:
            raise DeviceRefused(Reason.UNAUTHENTICATED, "CHALLENGE: unknown, used, or expired")
        return grant


def _vouched_device(body: bytes, apple: AppleDevices) -> VouchedDevice:
    try:
        said = _read(body)
        if apple.vouches(said.signer.certificate):
            return said.device
        reason = "not signed with a certificate of Apple's"
    except DeviceRefused as exc:
        reason = str(exc)
    log.info("machine_info_unusable", reason=reason)
    return ANY_DEVICE


def _read(body: bytes) -> _Said:
    try:
        signed = open_signed(body)
    except BadRequest as exc:
        raise DeviceRefused(Reason.SIGNATURE, str(exc)) from None
    try:
        attributes = plist.parse(signed.content)
        udid, serial = (plist.identifier(attributes, key) for key in ("UDID", "SERIAL"))
        challenge = plist.text(attributes, "CHALLENGE", limit=LONGEST) or ""
        return _Said(VouchedDevice(udid, serial), challenge, signed.signer)
    except BadRequest as exc:
        raise DeviceRefused(Reason.PLIST, str(exc)) from None
