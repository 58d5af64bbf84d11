"""One push to one enrollment, until its outcome is known.

Promises: what may work in a moment is tried again, on another connection, a bounded number of times
with jitter; what APNs says of a token counts only if it is the token we still hold, and a 410 only if
the device has not sent the token again since. A dead token is pushed like any other: its first push
that APNs takes makes it alive again.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from services.push.send.apns import Push
from services.push.send.outcomes import (
    Accepted,
    Outcome,
    Retry,
    TokenDead,
    TopicRefused,
    Unreachable,
)
from services.push.send.topics import Topics
from services.runtime.wanted_topics import WantedTopics
from shared.domain.enrollment import Enrollment, PushTarget
from shared.domain.event import Topic
from shared.domain.outbox import token_invalid
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments

log = structlog.get_logger()

PAUSES = (timedelta(milliseconds=500), timedelta(seconds=1), timedelta(seconds=2))
"""Between the tries of one push, each times 0.5 to 1.5."""

URGENT_PAUSES = PAUSES[:1]
"""The same while an API client waits."""

EXPIRES_AFTER = timedelta(days=7)
"""APNs keeps a push so long for a device that sleeps or is off."""


class PushSender(Protocol):
    async def push(self, push: Push) -> Outcome: ...


class PushAttempts:
    def __init__(
        self,
        apns: PushSender,
        enrollments: Enrollments,
        topics: Topics,
        clock: Clock,
        random: Callable[[], float],
        wanted: WantedTopics,
        ids: Ids,
    ) -> None:
        self._apns = apns
        self._enrollments = enrollments
        self._topics = topics
        self._clock = clock
        self.random = random
        self._wanted = wanted
        self._ids = ids

    async def push(
        self,
        enrollment: Enrollment,
        target: PushTarget,
        *,
        expires_at: datetime | None = None,
        urgent: bool = False,
    ) -> Outcome:
        """`urgent`: an API client waits for what APNs says now."""
        problem = self._topics.problem(target.topic, urgent=urgent)
        if problem is not None:
            return problem
        expires_at = expires_at or self._clock.now() + EXPIRES_AFTER
        push = Push(target.topic, target.token, target.magic, expires_at)
        outcome = await self._apns.push(push)
        for pause in URGENT_PAUSES if urgent else PAUSES:
            if not isinstance(outcome, Retry) or isinstance(outcome, Unreachable):
                break
            await self._clock.sleep(pause * (0.5 + self.random()))
            outcome = await self._apns.push(push)
        if isinstance(outcome, TokenDead):
            return await self._mark_dead(enrollment, target, outcome)
        if isinstance(outcome, TopicRefused):
            self._topics.stop(target.topic, outcome.reason)
        elif isinstance(outcome, Accepted):
            self._topics.works(target.topic)
            if target.dead and await self._enrollments.mark_token(
                enrollment.id, target.token, dead=False
            ):
                log.info("push_token_alive_again", enrollment=enrollment.id)
        return outcome

    async def _mark_dead(
        self, enrollment: Enrollment, target: PushTarget, verdict: TokenDead
    ) -> Outcome:
        updated = enrollment.token_updated_at
        if verdict.since is not None and updated is not None and updated >= verdict.since:
            # APNs speaks of the time before the device registered again.
            return verdict
        event = None
        if Topic.PUSH_TOKEN_INVALID in self._wanted.now:
            event = token_invalid(self._ids.new(), self._clock.time_ns(), verdict.reason)
        if await self._enrollments.mark_token(enrollment.id, target.token, dead=True, event=event):
            if not target.dead:
                log.info("push_token_dead", enrollment=enrollment.id, reason=verdict.reason)
            return verdict
        return Retry("the push token was replaced meanwhile")
