"""The identity payload of a profile: our SCEP, another SCEP server, or an ACME server.

Promise: each profile from us carries a challenge of its own (or MDM_SCEP_CHALLENGE), bound to the
device where an Apple certificate vouches for it. A challenge of ours never goes to another server.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.apple.profiles.payloads import Acme, Look, Payload, Scep, acme_payload, scep_payload
from shared.ports.clock import Ids
from shared.security.challenges import ScepChallenges

Subject = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class VouchedDevice:
    """Proven facts about a device that has no identity of ours yet; None: unknown."""

    udid: str | None = None
    serial_number: str | None = None


ANY_DEVICE = VouchedDevice()


class IdentityPayloads(Protocol):
    async def make(self, look: Look, uuid: str, device: VouchedDevice, name: str) -> Payload:
        """The SCEP or ACME payload; `name` is what the certificate is for. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class OurScep:
    challenges: ScepChallenges
    url: str
    subject: Subject

    async def make(self, look: Look, uuid: str, device: VouchedDevice, name: str) -> Payload:
        challenge = await self.challenges.issue(device.udid, device.serial_number)
        return scep_payload(look, uuid, Scep(self.url, self.subject, challenge, name))


@dataclass(frozen=True, slots=True)
class OtherScep:
    """A SCEP server of the operator's (MDM_SCEP_URL)."""

    url: str
    subject: Subject
    challenge: str | None = field(default=None, repr=False)

    async def make(self, look: Look, uuid: str, device: VouchedDevice, name: str) -> Payload:
        return scep_payload(look, uuid, Scep(self.url, self.subject, self.challenge, name))


@dataclass(frozen=True, slots=True)
class OtherAcme:
    """An ACME server of the operator's (MDM_ACME_DIRECTORY_URL). A client identifier that is not the proven
    serial number is new: the server learns from the attestation who it is."""

    directory_url: str
    subject: Subject
    ids: Ids

    async def make(self, look: Look, uuid: str, device: VouchedDevice, name: str) -> Payload:
        client = device.serial_number or self.ids.new()
        return acme_payload(look, uuid, Acme(self.directory_url, self.subject, client))
