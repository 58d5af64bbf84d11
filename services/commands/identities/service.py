"""The certificates by which devices are known, as administrators see and change them.

Promises: a reset takes the binding away until the device authenticates with any certificate of a trusted
CA; what was bound to it once stays reserved for it, and only the last one may come back. A device in
quarantine is bound again in one call, by the certificate that it shows and by no other. Each change is
conditional on what was read, so that it never undoes what the device did meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from services.commands.queue.targets import Targets
from shared.domain.binding import rebinding
from shared.domain.enrollment import Enrollment
from shared.domain.errors import Conflict, NotFound, Overtaken
from shared.domain.identity import BoundBy, DeviceCertificate, Identity
from shared.ports.certificates import IssuedCertificate, IssuedCertificates
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments
from shared.ports.identities import Identities
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()


KnownIdentity = tuple[Enrollment, Sequence[IssuedCertificate]]
"""A device, and the certificates that were given out to follow its present one."""


@dataclass(frozen=True, slots=True)
class IdentityService:
    """Shows and changes bindings. All methods raise NotFound, Conflict, StoreUnavailable."""

    enrollments: Enrollments
    identities: Identities
    issued: IssuedCertificates
    targets: Targets
    clock: Clock
    ids: Ids
    metrics: Metrics

    async def show(self, name: str) -> KnownIdentity:
        device = await self._device(name)
        bound = device.certificate
        return device, [] if bound is None else await self.issued.renewals_of(bound)

    async def reset(self, name: str) -> None:
        """Take the binding away; where there is none, nothing changes."""
        device = await self._device(name)
        if device.certificate is None:
            return
        if not await self.identities.reset(device.id, device.certificate):
            raise Overtaken("the binding changed meanwhile")
        log.info("binding_reset", device=device.id, certificate=device.certificate)

    async def rebind(self, name: str, certificate: str, patience: timedelta) -> KnownIdentity:
        """Bind the certificate that is refused from the device, or the one that a reset took away; accept the
        one that is bound for so long if it has expired.

        Raises Conflict for any other certificate, and for one that is another device's."""
        device = await self._device(name)
        if certificate == device.certificate:
            await self._accept(device, certificate, patience)
        else:
            await self._bind(device, await self._offered(device, certificate))
        return await self.show(device.id)

    async def _device(self, name: str) -> Enrollment:
        """Removed ones too: their bindings outlive them."""
        target = await self.targets.one(name)
        id_ = target.key.device
        found = (await self.enrollments.load([id_])).get(id_)
        if found is None:
            raise NotFound(f"udid: no device {name} is known")
        return found

    async def _accept(self, device: Enrollment, certificate: str, patience: timedelta) -> None:
        now = self.clock.now()
        not_after = device.identity.certificate.not_after if device.identity else None
        if not_after is None or not_after <= now:
            until = now + patience
            done = await self.identities.accept_expired(device.id, certificate, until)
        else:
            done = await self.identities.release(device.id, certificate)
        if not done:
            raise Overtaken("the binding changed meanwhile")
        log.info("binding_confirmed", device=device.id, certificate=certificate)

    async def _offered(self, device: Enrollment, certificate: str) -> DeviceCertificate:
        """A certificate that the device may be bound to."""
        shown = device.quarantine.certificate if device.quarantine else None
        before = device.identity.certificate if device.identity else None
        if shown is not None and shown.fingerprint == certificate:
            found = shown
        elif certificate != device.reset_from:
            raise Conflict("certificate_sha256: the device has not shown this certificate in vain")
        elif before is not None and before.fingerprint == certificate:
            found = before
        else:
            found = DeviceCertificate(certificate)
        if found.not_after is not None and found.not_after <= self.clock.now():
            raise Conflict(
                "certificate_sha256: this certificate has expired; enroll the device anew"
            )
        return found

    async def _bind(self, device: Enrollment, certificate: DeviceCertificate) -> None:
        fingerprint = certificate.fingerprint
        issued = await self.issued.by_fingerprint([fingerprint])
        identity = Identity(
            certificate=replace(certificate, is_expired=False),
            bound_at=self.clock.now(),
            how=BoundBy.ADMINISTRATOR,
            is_ours=fingerprint in issued,
            parameters=None if device.identity is None else device.identity.parameters,
        )
        binding = rebinding(device, identity, self.ids.new())
        if not all(await self.enrollments.bind([binding])):
            holders = await self.enrollments.holders([fingerprint])
            if holders.get(fingerprint, device.id) != device.id:
                raise Conflict("certificate_sha256: this certificate is another device's")
            raise Overtaken("the binding changed meanwhile")
        self.metrics.certificates_rebound.labels(BoundBy.ADMINISTRATOR).inc()
        log.info("certificate_rebound", device=device.id, how=BoundBy.ADMINISTRATOR.value)
