"""The routes of commands, devices and jobs, on the fakes of a `World`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from fastapi import APIRouter

from services.commands.devices.routes import device_routes
from services.commands.history.listing import EntryList
from services.commands.history.long_poll import LongPoll
from services.commands.history.lookup import CommandLookup
from services.commands.history.routes import history_routes, list_routes
from services.commands.jobs.routes import job_routes
from services.commands.jobs.worker import JobWorker
from services.commands.submit.routes import submit_routes
from services.commands.submit.service import SubmitService
from shared.concurrency.periodic import Loops
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature, Service
from tests.support.commands_world import CATALOGUE, World
from tests.support.fakes.jobs import FakeJobs
from tests.support.fakes.journal import FakeJournal
from tests.support.fakes.pushes import FakePushes

MEBIBYTE = 1024**2
Tag = Mapping[str, Any]


class PostingWorld:
    """One process; `run` what works in its background."""

    def __init__(
        self,
        world: World,
        *,
        most_waiting: int = 100,
        max_size: int = 8 * MEBIBYTE,
    ) -> None:
        self.world = world
        self.jobs = FakeJobs()
        self.journal = FakeJournal()
        self.lookup = CommandLookup(
            world.queue, FakePushes(), self.journal, world.targets, world.reconciler
        )
        self.poll = LongPoll(world.queue, world.clock, timedelta(minutes=2), most_waiting)
        self.worker = JobWorker(
            self.jobs, world.queue, world.queue_service, world.clock, world.ids, world.metrics
        )
        self.submitting = SubmitService(
            world.queue_service, self.lookup, self.poll, self.worker, self.jobs, max_size
        )

    def service(self, auth: ApiAuth, *others: APIRouter, tags: Sequence[Tag] = ()) -> Service:
        """The service of these routes and others, without its background work."""
        world = self.world
        listing = EntryList(world.queue, world.reconciler, world.clock)
        routers = (
            submit_routes(CATALOGUE, self.submitting, world.ids, world.unlock, auth),
            list_routes(listing, world.targets, auth),
            history_routes(self.lookup, world.open_commands, self.poll, auth),
            device_routes(world.inventory, auth),
            job_routes(self.jobs, auth),
            *others,
        )
        feature = Feature(routers=routers, openapi_tags=tags)
        return Service.of("commands", [feature], Loops(world.clock))
