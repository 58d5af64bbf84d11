from datetime import timedelta
from typing import Any

from services.runtime.stores import Stores


class FakeStores(Stores):
    """The ports that a test gives. Any other one fails on first use, since there is no database."""

    def __init__(self, **ports: Any) -> None:
        vars(self).update(ports)
        self.prepared: list[str] = []

    async def prepare(self, *ports: str, **retention: timedelta) -> None:
        self.prepared += [*ports, *retention]
