"""SIGTERM and SIGINT: the first one asks to end, a second one ends at once."""

import asyncio
import os
import signal
import time

import structlog

log = structlog.get_logger()

# A group's SIGTERM also comes by way of `make`, which hands it on: both are the first one.
SAME_SIGNAL_SECONDS = 1.0


class StopSignals:
    """`asked` is set by the first signal. Installed for the life of the process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._first_at: float | None = None

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        # A process ends in real time, whatever clock its parts were given.
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            log.info("stopping", signal=number.name)
            self.asked.set()
        elif now - self._first_at > SAME_SIGNAL_SECONDS:
            os._exit(128 + number)
