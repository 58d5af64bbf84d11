"""Health, readiness and metrics for operators and Kubernetes, on a listener of its own that no ingress
reaches.

/healthz: the process is alive; 503 once a loop in the background has hung for half an hour, since only a
restart ends that. It asks no other server, since no restart brings back what is away. /readyz: the process
can be sent requests, or the reasons why it cannot; and what of its work in the background fails, which does
not make it unready: each replica would fail at the same document, and a proxy without any replica would
answer in our stead. /metrics: for Prometheus.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.telemetry.metrics import Metrics
from shared.web.answers import JsonAnswer
from shared.web.server.service import Service

READY_DEADLINE = timedelta(seconds=2)


class Readiness:
    """Why this process cannot take requests: first because it starts, at last because it stops."""

    def __init__(self) -> None:
        self.services: Sequence[Service] = ()
        self.failing: Callable[[], list[str]] = list
        """Loops in the background that have failed for minutes."""
        self.stalled: Callable[[], list[str]] = list
        """Loops that hang."""
        self.starting: str | None = "starting"
        self.stopping = False

    async def reasons(self) -> list[str]:
        if self.stopping:
            return ["stopping"]
        starting = [] if self.starting is None else [self.starting]
        return starting + await self.of_services()

    async def of_services(self) -> list[str]:
        """Only what the services say."""
        found: list[str] = []
        for service in self.services:
            try:
                async with asyncio.timeout(READY_DEADLINE.total_seconds()):
                    reasons = await service.ready()
            except TimeoutError:
                reasons = ["does not say whether it is ready"]
            found += [f"{service.name}: {reason}" for reason in reasons]
        return found


@dataclass(frozen=True, slots=True)
class OpsApp:
    readiness: Readiness
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = await self._answer(scope["path"])
            await answer(scope, receive, send)

    async def _answer(self, path: str) -> Response:
        match path:
            case "/healthz":
                if stalled := self.readiness.stalled():
                    return JsonAnswer({"status": "stalled", "stalled": stalled}, 503)
                return JsonAnswer({"status": "alive"})
            case "/readyz":
                reasons = await self.readiness.reasons()
                failing = self.readiness.failing()
                said = {"ready": not reasons, "reasons": reasons, "failing": failing}
                return JsonAnswer(said, 503 if reasons else 200)
            case "/metrics":
                content = generate_latest(self.metrics.registry)
                return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})
            case _:
                return JsonAnswer({"error": "not found"}, 404)
