"""Decide what to do about a certificate near its end, from stored facts only.

A renewal is one command. While it is open, nothing is done (after NotNow it is sent again anyway). If it
has ended and the certificate was not replaced, another attempt follows after a growing pause of at most
half of the remaining time. A failure is reported once."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from shared.domain.command import QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.identity import BoundBy, Renewal, RenewalFailure
from shared.domain.versions import is_known

LOOK_AGAIN = timedelta(hours=6)
"""At a command that is open, or was to be queued just now."""
MISSING_AFTER = timedelta(minutes=10)
"""So long after its attempt a command that is nowhere was not queued, because the process died."""
FORGOTTEN_AFTER = timedelta(days=2)
"""So long after its attempt it was there, and left the store with the others that are finished."""
FIRST_PAUSE = timedelta(days=1)
LONGEST_PAUSE = timedelta(days=7)
SHORTEST_PAUSE = timedelta(hours=1)
TOLD_AFTER = 3
"""Failed attempts, after which subscribers get an event."""
AWAY = timedelta(days=1)
"""Until a device is looked at again that is not enrolled now, or blocked."""


@dataclass(frozen=True, slots=True)
class RenewalRules:
    """`before`: MDM_RENEW_BEFORE. `takes_over`: devices that came by migration get their next
    certificate from our SCEP, since the old server's CA renews none any more."""

    before: timedelta
    takes_over: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of a look. `ask`: queue the command of `renewal`. `failure`: report it."""

    look_at: datetime | None
    renewal: Renewal | None = None
    ask: bool = False
    failure: RenewalFailure | None = None


def plan_of(
    device: Enrollment, entry: QueueEntry | None, now: datetime, rules: RenewalRules
) -> Plan:
    """`entry` is that of the last attempt, if there is one."""
    identity = device.identity
    if identity is None or identity.certificate.not_after is None or device.certificate is None:
        return Plan(look_at=None)
    failed = None if device.renewal is None else device.renewal.failed
    if not all(map(is_known, (device.status, identity.how, failed))):
        return Plan(look_at=now + LOOK_AGAIN)  # for a replica of the newer version to judge
    end = identity.certificate.not_after
    if device.expired_until is not None:
        end = max(end, device.expired_until)
    else:
        # Not before half of its time is over, so that a short one is not renewed again and again.
        begin = max(end - rules.before, identity.bound_at + (end - identity.bound_at) / 2)
        if now < begin:
            return Plan(look_at=begin)
    if device.status is not EnrollmentStatus.ENROLLED or device.blocked:
        return Plan(look_at=now + AWAY if now < end else None)
    if not (identity.is_ours or (rules.takes_over and identity.how is BoundBy.MIGRATION)):
        return _failed(device, RenewalFailure.OTHER_AUTHORITY)
    return _failed(device, RenewalFailure.EXPIRED) if now >= end else _next(device, entry, now, end)


def without_profile(device: Enrollment, now: datetime) -> Plan:
    """In place of an attempt, where the operator's own profile has no place for a challenge."""
    seen = device.renewal or Renewal(0, command_uuid(device, 0), now)
    plan = _failed(replace(device, renewal=seen), RenewalFailure.PROFILE)
    return replace(plan, look_at=now + AWAY)


def command_uuid(device: Enrollment, attempt: int) -> str:
    """The same for an attempt from every replica, and of no other: the count of attempts begins again once
    the certificate is bound again, or an administrator is patient with it."""
    bound_at = None if device.identity is None else device.identity.bound_at
    counted = f"{device.certificate}\0{bound_at}\0{device.expired_until}"
    name = f"{device.id}\0{counted}\0{attempt}"
    return str(UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4))


def _failed(device: Enrollment, failure: RenewalFailure) -> Plan:
    seen = device.renewal
    if seen is None:
        return Plan(look_at=None, failure=failure)
    news = None if seen.failed is failure else failure
    return Plan(look_at=None, renewal=replace(seen, failed=failure), failure=news)


def _next(device: Enrollment, entry: QueueEntry | None, now: datetime, end: datetime) -> Plan:
    seen = device.renewal
    if seen is None or seen.attempt == 0:
        return _ask(device, 1, now, end)
    if entry is None and now < seen.asked_at + MISSING_AFTER:
        return Plan(look_at=seen.asked_at + MISSING_AFTER)
    if entry is None and now < seen.asked_at + FORGOTTEN_AFTER:
        return _ask(device, seen.attempt, now, end)
    ended_at = seen.asked_at
    if entry is not None:
        is_present = entry.generation in (None, device.generation)
        if is_present and not entry.state.is_final and not entry.is_expired(now):
            return Plan(look_at=min(now + LOOK_AGAIN, end))
        ended_at = entry.finished_at or entry.expires_at or now
    grown = min(FIRST_PAUSE * (1 << min(seen.attempt - 1, 10)), LONGEST_PAUSE)
    again_at = ended_at + min(grown, max((end - now) / 2, SHORTEST_PAUSE))
    if now < again_at:
        return Plan(look_at=again_at)
    return _ask(device, seen.attempt + 1, now, end)


def _ask(device: Enrollment, attempt: int, now: datetime, end: datetime) -> Plan:
    before = None if device.renewal is None else device.renewal.failed
    failed = RenewalFailure.ATTEMPTS if attempt > TOLD_AFTER else None
    return Plan(
        # Soon, so that a process that dies before it has queued the command delays it little.
        look_at=min(now + MISSING_AFTER, end),
        renewal=Renewal(attempt, command_uuid(device, attempt), now, failed),
        ask=True,
        failure=None if before is failed else failed,
    )
