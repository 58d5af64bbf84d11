"""The API of subscriptions on fakes, and a client of it."""

import json
from typing import Any

import httpx
from pydantic import SecretStr

from services.webhook.delivery.filters import Filters
from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.history.replay_routes import ReplayService, replay_routes
from services.webhook.history.routes import action_routes, delivery_routes
from services.webhook.history.service import DeliveryHistory
from services.webhook.history.worker import ReplayWorker
from services.webhook.subscriptions.receivers import Receivers
from services.webhook.subscriptions.routes import state_routes, subscription_routes
from services.webhook.subscriptions.service import SubscriptionService
from shared.domain.event import Event
from shared.domain.subscription import Subscription
from shared.network.address_guard import AddressGuard
from shared.settings.classes import AllSettings
from shared.telemetry.metrics import Metrics
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.deliveries import FakeDeliveries
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.journal import FakeJournal
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.fakes.webhook_history import FakeActivities, FakeDeliveryRecords, FakeReplays

KEY = "secret"
URL = "https://receiver.example/events"
CONFIGURED = Subscription("config", "https://u:p@old.example/hook?key=k", name="MDM_WEBHOOK_URL")


class Names:
    """A name server: every host has the same address, unless a test says otherwise."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str] | Exception] = {}
        self.asked: list[tuple[str, int]] = []

    async def look_up(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        found = self.addresses.get(host, ["93.184.216.34"])
        if isinstance(found, Exception):
            raise found
        return found


class Receiver:
    """Takes test events, or fails as a test says."""

    def __init__(self) -> None:
        self.outcome = AttemptOutcome()
        self.requests: list[EventRequest] = []

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        self.requests.append(request)
        return self.outcome


class WebhookApi:
    def __init__(self, *stored: Subscription, configured: Subscription | None = None) -> None:
        self.clock, self.ids, self.audit = FakeClock(), FakeIds(), FakeAuditLog()
        self.names, self.receiver = Names(), Receiver()
        self.journal, self.deliveries = FakeJournal(), FakeDeliveries()
        self.enrollments = FakeEnrollments()
        self.replays, self.activities = FakeReplays(), FakeActivities()
        self.subscriptions = FakeSubscriptions(*stored, configured=configured)
        self.service = SubscriptionService(
            self.subscriptions,
            Receivers(AddressGuard(), self.names.look_up),
            self.journal,
            self.clock,
            self.ids,
            longest_schedule=AllSettings().longest_schedule,
            retention=AllSettings().event_retention,
        )
        records = FakeDeliveryRecords(self.deliveries.records)
        history = DeliveryHistory(
            self.deliveries,
            records,
            self.activities,
            self.replays,
            self.journal,
            self.receiver,
            self.clock,
            self.ids,
        )
        self.worker = ReplayWorker(
            self.replays,
            self.subscriptions,
            self.deliveries,
            records,
            self.journal,
            Filters(self._read, self.enrollments, FakeCommandQueue()),
            self.clock,
            self.ids,
            "p",
        )
        replays = ReplayService(self.replays, self.clock, self.ids)
        auth = ApiAuth([SecretStr(KEY)], trail=AuditTrail(self.audit, self.clock, self.ids))
        routers = [
            subscription_routes(self.service, auth),
            state_routes(self.service, auth),
            delivery_routes(self.service, history, auth),
            action_routes(self.service, history, auth),
            replay_routes(self.service, replays, auth),
        ]
        services = [Service("webhook", router, self._run) for router in routers]
        app = create_app(services, max_body=1024**2, metrics=Metrics())
        transport = httpx.ASGITransport(app=app)
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://test", auth=("micromdm", KEY)
        )

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and content of the answer to `/v1/webhooks` and `path`."""
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self.http.request(method, f"/v1/webhooks{path}", content=content)
        return answer.status_code, answer.json()

    async def create(self, **fields: Any) -> dict[str, Any]:
        status, made = await self.ask("POST", "", {"name": "inventory", "url": URL, **fields})
        assert status == 201, made
        return made  # type: ignore[no-any-return]

    async def change(self, id: str, **fields: Any) -> dict[str, Any]:
        status, made = await self.ask("PATCH", f"/{id}", fields)
        assert status == 200, made
        return made  # type: ignore[no-any-return]

    async def refused(self, **fields: Any) -> str:
        """The error of a creation that is refused with 400."""
        status, answer = await self.ask("POST", "", {"name": "n", "url": URL, **fields})
        assert status == 400, answer
        assert self.subscriptions.stored == {}
        return answer["error"]  # type: ignore[no-any-return]

    async def _read(self, event_id: str) -> Event | None:
        return (await self.journal.read([event_id])).get(event_id)

    async def _run(self) -> None:
        """No work in the background."""
