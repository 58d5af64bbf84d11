"""The topics of ours that some subscription asks for, as this process knows them.

Promises: an event that nobody asks for is not made, so without a subscriber it costs nothing; a change of the
subscriptions is known within READ_EVERY, while the store answers, and before the first request is served.
"""

from datetime import timedelta

from shared.concurrency.periodic import Loops, Pace
from shared.domain.event import EXTRA_TOPICS, Topic
from shared.domain.subscription import is_asked_for
from shared.ports.deliveries import Subscriptions

READ_EVERY = timedelta(seconds=1)
PACE = Pace(every=READ_EVERY, after_failure=READ_EVERY)


class WantedTopics:
    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        self._read: frozenset[str] = frozenset()
        self.now: frozenset[Topic] = frozenset()

    async def refresh(self) -> None:
        """Read them. Raises StoreUnavailable; what was known counts until then."""
        read = await self._subscriptions.topics()
        if read != self._read:
            self._read = read
            self.now = frozenset(topic for topic in EXTRA_TOPICS if is_asked_for(read, topic))

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("wanted_topics", self.refresh, PACE, waits="wanted_topics_wait")
