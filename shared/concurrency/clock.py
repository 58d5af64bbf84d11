"""The real `Clock` and `Ids`; tests give fakes of both ports instead."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import uuid_utils


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())


class SystemIds:
    """UUIDv7 in lower case: later ids of one process sort after earlier ones."""

    def new(self) -> str:
        return str(uuid_utils.uuid7())
