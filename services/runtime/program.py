"""The program of a process: the services that a command line names, on one set of adapters."""

from collections.abc import Sequence
from importlib import import_module

from services.runtime.adapters import PartsOfProcess
from shared.concurrency.clock import SystemClock
from shared.domain.errors import Unavailable
from shared.domain.subscription import SubscriptionState
from shared.security.authority import open_authority
from shared.settings import SERVICES, ServiceSettings
from shared.telemetry.metrics import Metrics
from shared.web.server.service import Service

SETTINGS: dict[str, type[ServiceSettings]] = {cls.service: cls for cls in SERVICES}

# The consumer of events comes first: with the in-process broker they are handed over in memory.
ALL_SERVICES = ("webhook", "push", "commands", "checkin")


def check(name: str, settings: ServiceSettings) -> None:
    """Raises Misconfigured for what only a service itself can judge: its certificates, say."""
    for each in ALL_SERVICES if name == "all" else (name,):
        app = import_module(f"services.{each}.app")
        if hasattr(app, "check"):
            app.check(settings, SystemClock())


class ServicesProgram:
    """Builds the services named, each once, however often a start is tried again."""

    def __init__(self, names: Sequence[str], settings: ServiceSettings, metrics: Metrics) -> None:
        self._names = names
        self._settings = settings
        self._parts = PartsOfProcess(settings, metrics)
        self._built: dict[str, Service] = {}

    async def build(self) -> Sequence[Service]:
        """Misconfigured with a MDM_SECRET_KEY that does not open the installation's CA: a service that
        encrypts with another key would write what the others cannot read. Who starts first makes the CA,
        so that there is always something to try the key on."""
        adapters = await self._parts.open()
        try:
            if not self._built:
                await open_authority(adapters.stores.authority, adapters.clock)
            for name in self._names:
                if name not in self._built:
                    # Imported only here: a process holds no more code than its own service needs.
                    app = import_module(f"services.{name}.app")
                    self._built[name] = await app.build(self._settings, adapters)
        finally:
            # Before "not now, so call again": a damaged store does not come back.
            self._parts.check()
        return list(self._built.values())

    async def count_webhooks(self) -> int | None:
        """The subscriptions that were made by API; None while the store does not say."""
        adapters = await self._parts.open()
        try:
            found = await adapters.stores.subscriptions().all()
        except Unavailable:
            return None
        return sum(each.state is not SubscriptionState.DELETED for each in found)

    async def watch(self) -> None:
        await self._parts.watch()

    def failing(self) -> list[str]:
        return self._parts.loops.failing()

    def stalled(self) -> list[str]:
        return self._parts.loops.stalled()

    async def close(self) -> None:
        await self._parts.close()
