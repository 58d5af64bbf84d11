"""Makes and changes subscriptions.

Promises: each change is conditional on what was read, and no change undoes another one; the subscription of
MDM_WEBHOOK_URL is shown and never changed; a change that is repeated after a lost answer does no harm.
"""

import secrets
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from services.webhook.endpoints.signing import SECRET_PREFIX
from services.webhook.subscriptions.receivers import Receivers
from services.webhook.subscriptions.requests import (
    NOW,
    NewSubscription,
    SecretRotation,
    SubscriptionPatch,
)
from shared.domain.errors import Conflict, NotFound, unfit
from shared.domain.subscription import (
    RequestSecrets,
    SigningSecret,
    Subscription,
    SubscriptionState,
)
from shared.ports.clock import Clock, Ids
from shared.ports.deliveries import Subscriptions
from shared.ports.events import Journal
from shared.settings.values import format_duration
from shared.times import nanoseconds, parse_rfc3339, to_milliseconds

log = structlog.get_logger()

MOST = 200
MOST_SECRETS = 10
_SECRET_BYTES = 32
_TRIES = 5

Edit = Callable[[Subscription], Subscription]


@dataclass(frozen=True, slots=True)
class SubscriptionService:
    """`longest_schedule`: the most that the waits of a retry schedule may be together (rule 14). `retention`:
    the journal keeps events for so long."""

    subscriptions: Subscriptions
    receivers: Receivers
    journal: Journal
    clock: Clock
    ids: Ids
    longest_schedule: timedelta
    retention: timedelta

    async def list(self) -> list[Subscription]:
        """The one of MDM_WEBHOOK_URL first."""
        return [each for each in await self.subscriptions.all() if _is_there(each)]

    async def get(self, id: str) -> Subscription:
        """Raises NotFound."""
        found = await self.subscriptions.get(id)
        if found is None or not _is_there(found):
            raise NotFound(f"there is no webhook {id[:100]}")
        return found

    async def create(self, asked: NewSubscription) -> tuple[Subscription, str | None]:
        """The new subscription, and its secret where that was made here. Raises BadRequest, Conflict."""
        if sum(not each.is_configured for each in await self.list()) >= MOST:
            raise Conflict(f"there are {MOST} webhooks, the most that there may be")
        secret = None if "secret" in asked.model_fields_set else _new_secret()
        made = (SigningSecret(secret),) if secret else ()
        now = to_milliseconds(self.clock.now())
        new = Subscription(
            id=self.ids.new(),
            url=asked.url,
            secrets=RequestSecrets(signing=made),
            revision=self.ids.new(),
            created_at=now,
            changed_at=now,
        )
        new = asked.applied(new)
        if asked.start != NOW:
            starts_at = await self._start(asked.start)
            new = replace(new, state=SubscriptionState.PREPARING, starts_at=starts_at)
        await self._check(asked)
        await self.subscriptions.add(new)
        log.info("webhook_created", subscription=new.id, name=new.name)
        return new, secret

    async def change(self, id: str, asked: SubscriptionPatch) -> Subscription:
        await self._check(asked)
        changed = await self._edit(id, asked.applied)
        log.info("webhook_changed", subscription=id, keys=sorted(asked.model_fields_set))
        return changed

    async def rotate(self, id: str, asked: SecretRotation) -> tuple[Subscription, str | None]:
        """The subscription, and its new secret where that was made here."""
        secret = asked.secret or _new_secret()
        now = self.clock.now()
        end = to_milliseconds(now + asked.kept_for)

        def rotated(subscription: Subscription) -> Subscription:
            former = [
                replace(each, expires_at=min(each.expires_at or end, end))
                for each in subscription.secrets.signing
                if each.value != secret and (each.expires_at is None or now < each.expires_at)
            ]
            former = former if asked.kept_for else []
            if len(former) >= MOST_SECRETS:
                raise Conflict(f"{MOST_SECRETS} secrets sign: wait until one of them expires")
            signing = (SigningSecret(secret), *former)
            return replace(subscription, secrets=replace(subscription.secrets, signing=signing))

        rotated_one = await self._edit(id, rotated)
        log.info("webhook_secret_rotated", subscription=id)
        return rotated_one, None if asked.secret else secret

    async def pause(self, id: str) -> Subscription:
        """Its events wait until it is resumed. Raises Conflict while its history is being stored."""

        def paused(subscription: Subscription) -> Subscription:
            if subscription.state is SubscriptionState.PREPARING:
                raise Conflict("its history is being stored: pause it once it is active")
            return replace(subscription, state=SubscriptionState.PAUSED, state_reason=None)

        return await self._edit(id, paused)

    async def resume(self, id: str) -> Subscription:
        """From a pause, and where the server disabled it; its events follow in order."""

        def resumed(subscription: Subscription) -> Subscription:
            if subscription.state is SubscriptionState.PREPARING:
                return subscription
            active = replace(subscription, state=SubscriptionState.ACTIVE, state_reason=None)
            return replace(active, disabled_at=None)

        return await self._edit(id, resumed)

    async def delete(self, id: str) -> None:
        """It gets nothing from now on. Its deliveries leave soon, and then its record."""

        def deleted(subscription: Subscription) -> Subscription:
            state = SubscriptionState.DELETED
            return replace(subscription, state=state, secrets=RequestSecrets())

        await self._edit(id, deleted, needs_secrets=False)
        log.info("webhook_deleted", subscription=id)

    async def _edit(self, id: str, edit: Edit, *, needs_secrets: bool = True) -> Subscription:
        """Raises NotFound, and Conflict for the configured one, for one that cannot be read, and where others
        are always faster."""
        for _ in range(_TRIES):
            found = await self.get(id)
            if found.is_configured:
                raise Conflict("MDM_WEBHOOK_URL makes this webhook: change that setting instead")
            if needs_secrets and found.unreadable is not None:
                raise Conflict(f"{found.unreadable}: bring that key back, or delete this webhook")
            wanted = edit(found)
            if wanted == found:
                return found
            now = to_milliseconds(self.clock.now())
            wanted = replace(wanted, revision=self.ids.new(), changed_at=now)
            if (wanted.state, wanted.url) != (found.state, found.url):
                wanted = replace(wanted, failing_since=None)
            if await self.subscriptions.change(wanted, found.revision):
                return wanted
        raise Conflict("others change this webhook at the same time: repeat the request")

    async def _start(self, start: str) -> int:
        """The time, in nanoseconds, of the first event that it gets. Raises BadRequest."""
        now = self.clock.now()
        if moment := parse_rfc3339(start):
            if not now - self.retention <= moment <= now:
                days = format_duration(self.retention)
                raise unfit("start", f"a time within the last {days} (MDM_EVENT_RETENTION)")
            return nanoseconds(moment)
        event = (await self.journal.read([start])).get(start) if len(start) <= 64 else None
        if event is None:
            raise unfit("start", "now, the id of an event in the journal, or a time (RFC 3339)")
        return event.created_at

    async def _check(self, asked: SubscriptionPatch) -> None:
        """Raises BadRequest for what only this server knows to be unfit."""
        waits, longest = asked.retry_schedule or (), self.longest_schedule
        # A sum of waits that are too long might be too long for any duration.
        if max(waits, default=longest) > longest or sum(waits, timedelta()) > longest:
            most = format_duration(longest)
            expected = f"waits of together up to {most} (MDM_EVENT_RETENTION less 3 d)"
            raise unfit("retry_schedule", expected)
        if "url" in asked.model_fields_set:
            await self.receivers.check(asked.url)


def _is_there(subscription: Subscription) -> bool:
    return subscription.state is not SubscriptionState.DELETED


def _new_secret() -> str:
    return SECRET_PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
