"""Push certificates, as far as others than push know them (owner: push)."""

from typing import Protocol


class PushTopics(Protocol):
    async def current(self) -> str | None:
        """The topic that devices are to enroll under; None where there is no push certificate."""
