"""Certificates near their end are renewed: the device is told to install its enrollment profile anew.

The profile has the identifier of the one that enrolled the device, which it replaces, and a challenge that
is good for the one certificate that is to follow the present one
(`services.checkin.authorization.certificate_policy`).

Promises: one command per device and attempt, whichever and however many replicas come upon it; so many a
minute and no more; a crash at any point delays an attempt, and loses none. What cannot be renewed is counted,
and subscribers that ask for it are told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.checkin.enrollment.profiles import EnrollmentProfiles
from services.checkin.pipeline.parts import Parts
from services.checkin.renewal.policy import Plan, RenewalRules, plan_of, without_profile
from shared.apple.request.plist import written
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.domain.command import RENEWAL_KEY, Command, QueueEntry, entry_id
from shared.domain.enrollment import PARTITIONS, Enrollment
from shared.domain.errors import Refused
from shared.domain.outbox import OutboxEvent, renewal_failed
from shared.ports.identities import Attempt, Identities
from shared.security.challenges import ChallengeBook
from shared.telemetry.metrics import RenewalOutcome

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=15))
ASKED_AT_ONCE = 10
"""Commands in one look: two a second from each replica."""
ENOUGH = 100
"""Devices in one look."""
COMMAND_LIVES = timedelta(days=7)
CHALLENGE_LIVES = COMMAND_LIVES + timedelta(days=1)
REQUEST_TYPE = "InstallProfile"


@dataclass(frozen=True, slots=True)
class RenewalParts:
    """What profiles are made of, and when they are due."""

    profiles: EnrollmentProfiles
    challenges: ChallengeBook
    rules: RenewalRules


class Renewals:
    """Runs in every replica of check-in for its share of the partitions, which the relay keeps."""

    def __init__(
        self, parts: Parts, identities: Identities, share: Share, renewal: RenewalParts
    ) -> None:
        self._enrollments = parts.enrollments
        self._queue = parts.queue
        self._push_requests = parts.push_requests
        self._clock = parts.clock
        self._ids = parts.ids
        self._metrics = parts.metrics
        self._identities = identities
        self._share = share
        self._profiles = renewal.profiles
        self._challenges = renewal.challenges
        self._rules = renewal.rules
        self._first = 0

    async def run(self, loops: Loops) -> None:
        """Until cancelled."""
        await loops.keep_doing("renewals", self.look, PACE, waits="renewals_wait")

    async def look(self) -> None:
        """One look at what is due. Raises Unavailable."""
        now = self._clock.now()
        due = await self._due(now)
        if not due:
            return
        entries = await self._entries(due)
        can_renew = await self._profiles.can_renew()
        asked = 0
        for device in due:
            plan = plan_of(device, entries.get(device.id), now, self._rules)
            if plan.ask and not can_renew:
                plan = without_profile(device, now)
            if plan.ask and asked >= ASKED_AT_ONCE:
                continue
            asked += plan.ask
            try:
                await self._follow(device, plan, now)
            except Refused as exc:  # of this device alone, such as a record that cannot grow
                log.error("renewal_not_possible", device=device.id, error=str(exc))

    async def _due(self, now: datetime) -> list[Enrollment]:
        """Of one partition after the other, until there is enough to do: the store's cost grows with
        all that are due, not with those that it gives."""
        ours = sorted(self._share.partitions)
        turned = [p for p in ours if p >= self._first] + [p for p in ours if p < self._first]
        due: list[Enrollment] = []
        for partition in turned:
            due += await self._identities.to_renew([partition], now)
            if len(due) >= ENOUGH:
                self._first = (partition + 1) % PARTITIONS
                break
        return due

    async def _entries(self, devices: Sequence[Enrollment]) -> Mapping[str, QueueEntry]:
        """Of their last attempts, by device."""
        ids = {
            device.id: entry_id(device.id, device.renewal.command_uuid)
            for device in devices
            if device.renewal is not None
        }
        found = await self._queue.entries_of(set(ids.values())) if ids else {}
        return {device: found[id_] for device, id_ in ids.items() if id_ in found}

    async def _follow(self, device: Enrollment, plan: Plan, now: datetime) -> None:
        """The attempt is stored before its command, so that of two replicas one makes it."""
        if device.certificate is None:
            return
        attempt = Attempt(
            device=device.id,
            certificate=device.certificate,
            seen=device.renewal,
            renewal=plan.renewal,
            look_at=plan.look_at,
            outbox_event=self._outbox_event(device, plan, now),
        )
        [is_stored] = await self._identities.attempt([attempt])
        if not is_stored:
            return
        if plan.failure is not None:
            self._metrics.renewals.labels(RenewalOutcome(plan.failure.value)).inc()
            log.warning("renewal_failed", device=device.id, reason=plan.failure.value)
        if plan.ask and plan.renewal is not None:
            await self._ask(device, device.certificate, plan.renewal.command_uuid, now)
            is_first = plan.renewal.attempt == 1
            outcome = RenewalOutcome.ASKED if is_first else RenewalOutcome.ASKED_AGAIN
            self._metrics.renewals.labels(outcome).inc()
            log.info("renewal_asked", device=device.id, attempt=plan.renewal.attempt)

    def _outbox_event(self, device: Enrollment, plan: Plan, now: datetime) -> OutboxEvent | None:
        if plan.failure is None or device.identity is None:
            return None
        attempts = 0 if device.renewal is None else device.renewal.attempt
        at = int(now.timestamp() * 1000) * 1_000_000
        return renewal_failed(self._ids.new(), at, device.identity, plan.failure, attempts)

    async def _ask(self, device: Enrollment, certificate: str, uuid: str, now: datetime) -> None:
        challenge = await self._challenges.issue_renewal(
            device.device, certificate, CHALLENGE_LIVES
        )
        parameters = device.identity.parameters if device.identity is not None else None
        profile = await self._profiles.renewal(parameters or {}, challenge)
        if profile is None:  # the operator's own profile changed just now: found at the next look
            return
        command = written(uuid, REQUEST_TYPE, {"Payload": profile})
        await self._enqueue(device, command, now)

    async def _enqueue(self, device: Enrollment, command: Command, now: datetime) -> None:
        """As the command API does it (docs/rules.md, rule 4)."""
        entry = QueueEntry(
            enrollment=device.id,
            device=device.device,
            command_uuid=command.uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation=device.generation,
            order=self._ids.new(),
            expires_at=now + COMMAND_LIVES,
            collapse_key=RENEWAL_KEY,
            accepted_at=now,
        )
        await self._queue.store([command], now)
        [there] = await self._queue.insert([entry])
        if there is None:
            known = (await self._enrollments.load({device.id})).get(device.id)
            if known is not None and known.generation != entry.generation:
                await self._queue.stamp(entry, known.generation)
            await self._queue.supersede([entry])
        self._push_requests.add([device.id])
