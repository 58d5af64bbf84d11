"""The binding of a certificate to a device."""

from dataclasses import dataclass

from shared.domain.enrollment import Enrollment, EnrollmentKey
from shared.domain.identity import Identity
from shared.domain.outbox import OutboxEvent, rebound

MOST_RETIRED = 100
"""The latest retired certificates that a record lists; a device that brings more and more certificates must
not fill its record."""
DROPPED_TOGETHER = 1000
"""A longer list, of an earlier version, shrinks by several rebindings."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Bind a certificate to a device, on condition that its generation is still `generation`.

    `replaces` (bound so far) and `retires` (unbound by a reset) are retired now; `retired` are those that
    the record listed before. `is_new`: the device has no record; the certificate is reserved for it, and
    the change of its Authenticate makes the record. Quarantine, renewal and patience with an expired
    certificate end."""

    key: EnrollmentKey
    generation: str | None
    certificate: str
    is_new: bool
    replaces: str | None = None
    retires: str | None = None
    retired: tuple[str, ...] = ()
    identity: Identity | None = None
    outbox_event: OutboxEvent | None = None

    @property
    def newly_retired(self) -> list[str]:
        return [each for each in (self.replaces, self.retires) if each is not None]

    @property
    def dropped(self) -> tuple[str, ...]:
        """The certificates that leave the record's list."""
        excess = len(self.retired) + len(self.newly_retired) - MOST_RETIRED
        return self.retired[: min(max(excess, 0), DROPPED_TOGETHER)]


def rebinding(device: Enrollment, identity: Identity, id_: str) -> Binding:
    """The binding of this certificate to a device with a record, on condition that the record has not
    changed; `id_` names its event."""
    certificate = identity.certificate.fingerprint
    before = device.certificate or device.reset_from
    if before == certificate:
        before = None
    at = int(identity.bound_at.timestamp() * 1000) * 1_000_000
    return Binding(
        key=device.key,
        generation=device.generation,
        certificate=certificate,
        is_new=False,
        replaces=device.certificate,
        retires=None if device.certificate else before,
        retired=device.retired_certificates,
        identity=identity,
        outbox_event=None if before is None else rebound(id_, at, before, identity),
    )
