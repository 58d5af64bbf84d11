"""The routes of commands, devices and jobs, on the fakes of a `World`."""

from datetime import timedelta

from fastapi import APIRouter

from services.commands.devices.routes import device_routes
from services.commands.history.listing import EntryList
from services.commands.history.long_poll import Slots, Waiting
from services.commands.history.lookup import CommandLookup
from services.commands.history.results import Answers
from services.commands.history.routes import history_routes
from services.commands.jobs.routes import job_routes
from services.commands.jobs.schemas import JobView
from services.commands.jobs.worker import JobPorts, JobWork
from services.commands.queue.limits import SizeLimits
from services.commands.submit.routes import submit_routes
from services.commands.submit.service import Posting, Waits
from shared.web.api.auth import ApiAuth
from tests.support.commands_world import CATALOGUE, World
from tests.support.fakes.jobs import FakeJobs
from tests.support.fakes.journal import FakeJournal
from tests.support.fakes.pushes import FakePushes

MEBIBYTE = 1024**2
USUAL_SIZES = SizeLimits(8 * MEBIBYTE)


class PostingWorld:
    """One process; `run` what works in its background."""

    def __init__(
        self,
        world: World,
        *,
        most_waiting: int = 100,
        sizes: SizeLimits = USUAL_SIZES,
    ) -> None:
        self.world = world
        self.jobs = FakeJobs()
        self.journal = FakeJournal()
        lookup = CommandLookup(
            world.queue, FakePushes(), Answers(self.journal), world.targets, world.reconciler
        )
        self.waiting = Waiting(world.queue, world.clock, Slots(most_waiting))
        self.waits = Waits(self.waiting, lookup, timedelta(minutes=2))
        ports = JobPorts(self.jobs, world.queue, world.clock, world.ids, world.metrics)
        self.work = JobWork(ports, world.queue_service)
        self.view = JobView(self.jobs)
        self.posting = Posting(world.queue_service, self.waits, self.work, self.view, sizes)

    def routes(self, auth: ApiAuth) -> APIRouter:
        world, routes = self.world, APIRouter()
        listing = EntryList(world.queue, world.reconciler, world.clock)
        for each in (
            submit_routes(CATALOGUE, self.posting, world.ids, world.unlock, auth),
            history_routes(listing, world.life, world.targets, self.waits, auth),
            device_routes(world.inventory, auth),
            job_routes(self.view, auth),
        ):
            routes.include_router(each)
        return routes
