"""`Subscriptions` in memory."""

from shared.domain.subscription import CONFIG_SUBSCRIPTION, Subscription, SubscriptionState


class FakeSubscriptions:
    """`Subscriptions` on a dictionary. `configured` is the one of MDM_WEBHOOK_URL."""

    def __init__(self, *stored: Subscription, configured: Subscription | None = None) -> None:
        self.stored = {each.id: each for each in stored}
        self.configured = configured
        self.noted: frozenset[str] = frozenset()

    async def all(self) -> list[Subscription]:
        configured = [self.configured] if self.configured else []
        return [*configured, *(self.stored[id] for id in sorted(self.stored))]

    async def get(self, id: str) -> Subscription | None:
        return self.configured if id == CONFIG_SUBSCRIPTION else self.stored.get(id)

    async def add(self, subscription: Subscription) -> None:
        self.stored.setdefault(subscription.id, subscription)

    async def change(self, wanted: Subscription, revision: str) -> bool:
        there = self.stored.get(wanted.id)
        if there is None or there.revision != revision:
            return False
        self.stored[wanted.id] = wanted
        return True

    async def remove(self, id: str) -> None:
        self.stored.pop(id, None)

    async def note_configured(self) -> None:
        self.noted = self.configured.all_topics if self.configured else frozenset()

    async def topics(self) -> frozenset[str]:
        kept = [s for s in self.stored.values() if s.state is not SubscriptionState.DELETED]
        return self.noted.union(*(each.all_topics for each in kept))
