"""Collection `subscriptions`: the subscriptions to events, beside the one that the settings name.

Owner: webhook. MDM_WEBHOOK_URL is the subscription `config`; it is not stored, so a changed setting
takes effect at the next start.
"""

from collections.abc import Collection as Topics

from shared.domain.subscription import CONFIG_SUBSCRIPTION, Subscription
from shared.storage.database import Database

NAME = "subscriptions"


class MongoSubscriptions:
    """Implements `shared.ports.deliveries.Subscriptions`."""

    def __init__(
        self, database: Database, configured_url: str | None, extra_topics: Topics[str] = ()
    ) -> None:
        self._documents = database.collection(NAME)
        self._configured = (
            [Subscription(CONFIG_SUBSCRIPTION, configured_url, frozenset(extra_topics))]
            if configured_url
            else []
        )

    async def all(self) -> list[Subscription]:
        found = await self._documents.find({"_id": {"$ne": CONFIG_SUBSCRIPTION}})
        stored = [
            Subscription(
                document["_id"], document["url"], frozenset(document.get("extra_topics", ()))
            )
            for document in found
        ]
        return [*self._configured, *sorted(stored, key=lambda subscription: subscription.id)]
