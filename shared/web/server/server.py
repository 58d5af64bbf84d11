"""Runs services until a signal ends them.

Promises: both ports are bound before anything else starts; operators are answered from then on; a
separate service opens its port at once and answers 503 until it is built, `all` opens its port when
every service is ready. A signal makes readiness false, then: requests that only wait end, no more
connections, requests under way end, services drain, the parts close; all of it within the grace even
when a part never answers, and with exit code 0, since what was acknowledged is durable already.
"""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Protocol

import structlog

from shared.domain.errors import Unavailable
from shared.settings import ProxySettings, ServiceSettings
from shared.telemetry.metrics import Metrics
from shared.web.server.app import Gate, create_app
from shared.web.server.connections import most_connections
from shared.web.server.health import OpsApp, Readiness
from shared.web.server.listener import Listener, Tls, bind, check_tls
from shared.web.server.service import Service

log = structlog.get_logger()

SAME_SIGNAL = timedelta(seconds=1)
"""A group's SIGTERM also comes by way of `make`, which hands it on: both are the first one."""


class StopSignals:
    """`asked` is set by the first signal. Installed for the life of the process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._first_at: float | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        # A process ends in real time, whichever clock its parts have.
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            log.info("stopping", signal=number.name)
            self.asked.set()
        elif now - self._first_at > SAME_SIGNAL.total_seconds():
            os._exit(128 + number)


GRACE = timedelta(seconds=14)
REQUESTS_DEADLINE = timedelta(seconds=5)
DRAIN_DEADLINE = timedelta(seconds=4)
CANCEL_DEADLINE = timedelta(seconds=2)
BUILD_RETRY = timedelta(seconds=1)
OPS_CONNECTIONS = 128
YOUNG_OBJECTS, YOUNG_TOGETHER, OLD_AFTER = 10_000, 1, 50
"""The thresholds of the garbage collector: new objects after which it looks at them, of which few are in
cycles (docs/adr/0030), and after how many more of such looks it looks at what was left of them once more.
Ten of them held the event loop for 30 ms (docs/adr/0038)."""
READY_POLL = timedelta(milliseconds=50)


class Program(Protocol):
    """The program to run: made by `services.__main__`."""

    async def build(self) -> Sequence[Service]:
        """Open the parts and build the services. Unavailable: try again a little later."""

    async def watch(self) -> None:
        """Work of the parts themselves, until cancelled; raises when one has ended by itself."""

    def failing(self) -> list[str]:
        """The loops in the background that have failed for minutes."""

    def stalled(self) -> list[str]:
        """Those that hang, which only a restart ends."""

    async def close(self) -> None:
        """Close what `build` opened, also after it failed."""


def tls_of(settings: ServiceSettings) -> Tls | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_cert, settings.tls_key)


class Server:
    """One process: a program behind its two listeners."""

    grace = GRACE
    most_connections: int | None = None
    """Connections of clients; None: as many as there are descriptors."""

    def __init__(
        self,
        program: Program,
        settings: ServiceSettings,
        metrics: Metrics,
        *,
        opens_when_ready: bool = False,
        on_open: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        check_tls(tls_of(settings))
        self._program = program
        self._settings = settings
        self._metrics = metrics
        self._opens_when_ready = opens_when_ready
        self._on_open = on_open
        self._gate = Gate()
        self.readiness = Readiness()
        self.readiness.failing = program.failing
        self.readiness.stalled = program.stalled
        self.ops = Listener(
            OpsApp(self.readiness, metrics),
            bind(settings.ops_http, "MDM_OPS_HTTP"),
            OPS_CONNECTIONS,
        )
        most = self.most_connections or most_connections()
        self.main = Listener(self._gate, bind(settings.http, "MDM_HTTP"), most, tls_of(settings))

    async def run(self) -> None:
        """Serve until a signal comes. Raises what the program raised, Misconfigured foremost."""
        stop = StopSignals()
        ending: threading.Timer | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.ops.keep_date())
                tasks.create_task(self.main.keep_date())
                work = tasks.create_task(self._work())
                await stop.asked.wait()
                ending = _end_within(self.grace, exit_code=0)
                await self._wind_down(work)
                raise _Stopped  # what is left in the group is cancelled
        except* _Stopped:
            log.info("stopped")
        finally:
            ending = ending or _end_within(self.grace, exit_code=1)
            await _bounded("parts", self._program.close(), GRACE)
            for what, listener in (("listener", self.main), ("ops", self.ops)):
                await _bounded(what, listener.close(CANCEL_DEADLINE), CANCEL_DEADLINE * 2)
            ending.cancel()

    async def _work(self) -> None:
        await self.ops.open()
        if not self._opens_when_ready:
            await self.main.open()
        services = await self._built()
        # A service that no client calls knows of no proxies.
        settings = self._settings
        proxies = settings.trusted_proxies if isinstance(settings, ProxySettings) else ()
        edge = self._gate.app = create_app(
            services,
            max_body=settings.max_body,
            metrics=self._metrics,
            body_budget=settings.body_budget,
            proxies=proxies,
        )
        self.main.whole.update(edge.whole)
        self.readiness.services = services
        if self.main.is_open:
            self.readiness.starting = None
        async with asyncio.TaskGroup() as tasks:
            for service in services:
                tasks.create_task(service.run(), name=service.name)
            tasks.create_task(self._program.watch(), name="parts")
            if self._opens_when_ready:
                await self._until_ready()
                await self.main.open()
                self.readiness.starting = None
            # What was made so far lives as long as the process: no collection need look at it.
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG_OBJECTS, YOUNG_TOGETHER, OLD_AFTER)
            if self._on_open is not None:
                await self._on_open()

    async def _built(self) -> Sequence[Service]:
        while True:
            try:
                return await self._program.build()
            except Unavailable as exc:
                self.readiness.starting = str(exc)
                log.warning("start_waits", reason=str(exc))
                await asyncio.sleep(BUILD_RETRY.total_seconds())

    async def _until_ready(self) -> None:
        said: list[str] = []
        while reasons := await self.readiness.of_services():
            if reasons != said:
                log.info("not_ready_yet", reasons=reasons)
                said = reasons
            await asyncio.sleep(READY_POLL.total_seconds())

    async def _wind_down(self, work: asyncio.Task[None]) -> None:
        services = self.readiness.services
        self.readiness.stopping = True
        for each in services:
            each.release()
        await _bounded("requests", self.main.close(REQUESTS_DEADLINE), REQUESTS_DEADLINE * 2)
        await asyncio.gather(
            *(_bounded(each.name, each.drain(), DRAIN_DEADLINE) for each in services)
        )
        work.cancel()
        await asyncio.wait({work}, timeout=CANCEL_DEADLINE.total_seconds())


class _Stopped(Exception):
    """Ends the task group after a signal."""


async def _bounded(what: str, step: Awaitable[None], deadline: timedelta) -> None:
    """One step of the end: neither its failure nor its silence stops the others."""
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            await step
    except TimeoutError:
        log.warning("stop_step_timed_out", step=what)
    except Exception:  # the step of any part, whose failure must not keep the others from ending
        log.exception("stop_step_failed", step=what)


def _end_within(grace: timedelta, exit_code: int) -> threading.Timer:
    """Ends the process, from a thread of its own, when ending takes longer than it may."""
    timer = threading.Timer(grace.total_seconds(), os._exit, (exit_code,))
    timer.daemon = True
    timer.start()
    return timer
