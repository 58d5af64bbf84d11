"""An API client of the routes that show and cancel commands, on fakes."""

from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from services.commands.history.listing import EntryList
from services.commands.history.long_poll import LongPoll
from services.commands.history.lookup import CommandLookup
from services.commands.history.routes import history_routes, list_routes
from shared.domain.command import EntryState, QueueEntry
from shared.domain.event import Event, Topic
from shared.times import nanoseconds
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.commands_world import MAC, World
from tests.support.fakes.journal import FakeJournal
from tests.support.fakes.pushes import FakePushes

KEY = "secret"
STATUS = {
    EntryState.ACKNOWLEDGED: "Acknowledged",
    EntryState.ERROR: "Error",
    EntryState.FORMAT_ERROR: "CommandFormatError",
    EntryState.NOT_NOW: "NotNow",
}


class LifeClient:
    """`world` is the store behind it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.journal = FakeJournal()
        self.pushes = FakePushes()
        self.lookup = CommandLookup(
            world.queue, self.pushes, self.journal, world.targets, world.reconciler
        )
        listing = EntryList(world.queue, world.reconciler, world.clock)
        auth = ApiAuth([SecretStr(KEY)])
        self.poll = LongPoll(world.queue, world.clock, timedelta(minutes=2), 1)
        routes = history_routes(self.lookup, world.open_commands, self.poll, auth)
        routes.include_router(list_routes(listing, world.targets, auth))

        async def run() -> None:
            return None

        app = create_app([Service("commands", routes, run)], max_body=1, metrics=world.metrics)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://server",
            auth=("micromdm", KEY),
        )

    async def call(self, path: str, method: str = "GET", **options: Any) -> tuple[int, Any]:
        answer = await self.http.request(method, f"/v1/commands{path}", **options)
        return answer.status_code, answer.json()

    async def page(self, *params: tuple[str, str]) -> tuple[list[str], str | None]:
        """The uuids of one page, and the next cursor."""
        status, page = await self.call("", params=params)
        assert status == 200, page
        return [shown["command_uuid"] for shown in page["commands"]], page["next_cursor"]

    async def all(self, *params: tuple[str, str], limit: int = 2) -> list[str]:
        """The uuids of all pages."""
        found, cursor = await self.page(*params, ("limit", str(limit)))
        while cursor is not None:
            more, cursor = await self.page(*params, ("limit", str(limit)), ("cursor", cursor))
            found += more
        return found

    async def reports(self, entry: QueueEntry, state: EntryState, body: bytes = b"") -> Event:
        """The device's answer, as check-in journals it and applies it."""
        self.world.clock.advance(timedelta(milliseconds=10))
        now = self.world.clock.now()
        event = Event(
            id=self.world.ids.new(),
            topic=Topic.CONNECT,
            key=MAC,
            created_at=nanoseconds(now) + 7,
            raw_payload=body,
            writer="w",
            number=1,
            status=STATUS[state],
            command_uuid=entry.command_uuid,
        )
        await self.journal.append([event])
        self.world.clock.advance(timedelta(milliseconds=10))
        await self.world.answer(entry, state, event.id)
        return event
