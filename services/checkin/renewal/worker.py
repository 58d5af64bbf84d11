"""Renew certificates near their end: send the device its enrollment profile again.

Promises: one command for each attempt, however many replicas see that it is due; a bounded number of
commands a minute; a crash at any point delays an attempt and loses none. A renewal that fails is counted
and becomes an event for subscribers that ask for it."""

from datetime import datetime, timedelta

import structlog

from services.checkin.renewal.command import RenewalCommands
from services.checkin.renewal.policy import Plan, RenewalRules, plan_of, without_profile
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.domain.enrollment import PARTITIONS, Enrollment
from shared.domain.errors import Refused
from shared.domain.outbox import renewal_failed
from shared.ports.clock import Clock, Ids
from shared.ports.identities import Attempt, Identities
from shared.telemetry.metrics import Metrics, RenewalOutcome
from shared.times import nanoseconds, to_milliseconds

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=15))
ASKED_AT_ONCE = 10
"""Commands in one look: two a second from each replica."""
ENOUGH = 100
"""Devices in one look."""


class Renewals:
    """Runs in every replica for its share of the partitions, which the relay keeps."""

    def __init__(
        self,
        identities: Identities,
        share: Share,
        commands: RenewalCommands,
        rules: RenewalRules,
        clock: Clock,
        ids: Ids,
        metrics: Metrics,
    ) -> None:
        self._identities = identities
        self._share = share
        self._commands = commands
        self._rules = rules
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._first = 0

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("renewals", self.look, PACE, waits="renewals_wait")

    async def look(self) -> None:
        """Look once at the devices that are due. Raises Unavailable."""
        now = self._clock.now()
        due = await self._due(now)
        if not due:
            return
        entries = await self._commands.entries(due)
        can_renew = await self._commands.can_renew()
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
        """One partition after the other, until there is enough to do: the cost of a read grows with all
        devices that are due, not with those that it returns."""
        ours = sorted(self._share.partitions)
        rotated = [p for p in ours if p >= self._first] + [p for p in ours if p < self._first]
        due: list[Enrollment] = []
        for partition in rotated:
            due += await self._identities.to_renew([partition], now)
            if len(due) >= ENOUGH:
                self._first = (partition + 1) % PARTITIONS
                break
        return due

    async def _follow(self, device: Enrollment, plan: Plan, now: datetime) -> None:
        """Store the attempt before its command, so that one of two replicas makes it."""
        if device.certificate is None:
            return
        outbox_event = None
        if plan.failure is not None and device.identity is not None:
            attempts = 0 if device.renewal is None else device.renewal.attempt
            at = nanoseconds(to_milliseconds(now))
            outbox_event = renewal_failed(
                self._ids.new(), at, device.identity, plan.failure, attempts
            )
        attempt = Attempt(
            device=device.id,
            certificate=device.certificate,
            seen=device.renewal,
            renewal=plan.renewal,
            look_at=plan.look_at,
            outbox_event=outbox_event,
        )
        [is_stored] = await self._identities.attempt([attempt])
        if not is_stored:
            return
        if plan.failure is not None:
            self._metrics.renewals.labels(RenewalOutcome(plan.failure.value)).inc()
            log.warning("renewal_failed", device=device.id, reason=plan.failure.value)
        if plan.ask and plan.renewal is not None:
            await self._commands.queue(device, device.certificate, plan.renewal.command_uuid, now)
            is_first = plan.renewal.attempt == 1
            outcome = RenewalOutcome.ASKED if is_first else RenewalOutcome.ASKED_AGAIN
            self._metrics.renewals.labels(outcome).inc()
            log.info("renewal_asked", device=device.id, attempt=plan.renewal.attempt)
