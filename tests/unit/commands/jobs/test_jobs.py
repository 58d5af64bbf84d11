"""One command for many devices, on fakes: two processes on one store."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.commands.jobs.tally import FIRST_FEW, MORE, MOST_WARNINGS, Tally
from services.commands.jobs.worker import STALE_AFTER, JobWorker
from services.commands.queue.priority import PIECE_LIMIT
from services.commands.queue.requeue import QueueRules
from services.commands.queue.submission import Queued
from shared.apple.plist.read import MAX_NODES
from shared.apple.request.plist import PreparedCommand, encode_command
from shared.concurrency.periodic import Loops
from shared.domain.command import Command, EntryState, QueueEntry, Terms
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import (
    BadRequest,
    Conflict,
    MdmError,
    NotFound,
    StoreUnavailable,
    TooLarge,
    Unavailable,
)
from shared.domain.job import PART_SIZE, Job, JobPart, JobState, Progress, part_id
from tests.support.commands_world import World, enrolled
from tests.support.fakes.clock import START, settle
from tests.support.fakes.jobs import FakeJobs
from tests.unit.commands.upkeep.test_janitor import forget

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
NOBODY = asyncio.Event()


class Fleet:
    """A store with many devices, and the processes that work on its jobs."""

    def __init__(self, devices: int = 3, rules: QueueRules | None = None) -> None:
        self.world = World(rules=rules or QueueRules())
        self.names = [f"D{number:05}" for number in range(devices)]
        for name in self.names:
            self.world.enrollments.add(enrolled(EnrollmentKey(name, name, udid=name)))
        self.jobs = self.world.queue.jobs
        self._running: dict[JobWorker, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "Fleet":
        return self

    async def __aexit__(self, *_: object) -> None:
        for work in list(self._running):
            await self.kill(work)

    def start(self, *, is_alone: bool = False) -> JobWorker:
        """A process that works on jobs."""
        world = self.world
        work = JobWorker(
            self.jobs,
            world.queue,
            world.replica(),
            world.clock,
            world.ids,
            world.metrics,
            is_alone,
        )
        self._running[work] = asyncio.create_task(work.run(Loops(world.clock)))
        return work

    async def kill(self, work: JobWorker) -> None:
        """As if the process were killed, without a word."""
        running = self._running.pop(work)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def command(self, terms: Terms | None = None, uuid: str = "c-1") -> PreparedCommand:
        made = encode_command(uuid, "ProfileList", {})
        targets = tuple(self.names)
        return PreparedCommand(targets, made, {}, is_bulk=True, terms=terms or Terms())

    def entries(self, uuid: str = "c-1") -> list[QueueEntry]:
        return [entry for entry in self.world.queue.entries.values() if entry.command_uuid == uuid]

    async def finished(self, job: Job, within: timedelta = MINUTE) -> Job:
        """The job once it is finished."""
        found = await self.ended(job, within)
        assert found.state is JobState.FINISHED
        return found

    async def ended(self, job: Job, within: timedelta = MINUTE) -> Job:
        """The job once it is finished or has failed."""
        for _ in range(int(within / SECOND)):
            await settle_long()
            if self.jobs.jobs[job.id].state is not JobState.RUNNING:
                break
            await self.world.clock.run(SECOND)
        found = self.jobs.jobs[job.id]
        assert found.state is not JobState.RUNNING
        return found

    @property
    def alive(self) -> int:
        """How many of its processes run."""
        return sum(not task.done() for task in self._running.values())


async def settle_long() -> None:
    """Let a job of some thousand devices go as far as it can without time passing."""
    for _ in range(60):
        await settle()


async def never() -> None:
    await NOBODY.wait()


async def test_every_target_gets_one_entry() -> None:
    async with Fleet(devices=100) as fleet:
        job = await fleet.start().start(fleet.command(), "ci")

        done = await fleet.finished(job)

        assert sorted(entry.enrollment for entry in fleet.entries()) == fleet.names
        assert done.progress == Progress(queued=100)
        assert (done.total, done.caller) == (100, "ci")


async def test_targets_are_stored_before_the_job_is_answered() -> None:
    async with Fleet(devices=PART_SIZE + 1) as fleet:
        work = fleet.start()
        await fleet.kill(work)

        job = await work.start(fleet.command(), "ci")

        stored = [target for part in fleet.jobs.parts.values() for target in part.targets]
        assert stored == fleet.names
        assert fleet.jobs.jobs[job.id].state is JobState.RUNNING


async def test_refused_targets_are_told_with_their_reasons() -> None:
    async with Fleet(devices=2) as fleet:
        fleet.names.insert(1, "nobody")
        job = await fleet.start().start(fleet.command(), "ci")

        done = await fleet.finished(job)

        [part] = fleet.jobs.parts.values()
        assert done.progress == Progress(queued=2, refused=1)
        assert [(each.target, each.error) for each in part.refusals] == [
            ("nobody", "udid: no device or user nobody is enrolled")
        ]


async def test_a_full_queue_is_among_the_refusals() -> None:
    async with Fleet(devices=2, rules=QueueRules(max_open=1)) as fleet:
        work = fleet.start()
        await fleet.finished(await work.start(fleet.command(), "ci"))
        fleet.names.append("PAD")

        done = await fleet.finished(await work.start(fleet.command(uuid="c-2"), "ci"))

        assert done.progress == Progress(queued=1, refused=2)


async def test_the_same_command_again_counts_as_queued_already() -> None:
    async with Fleet(devices=3) as fleet:
        work = fleet.start()
        await fleet.finished(await work.start(fleet.command(), "ci"))
        fleet.world.clock.advance(SECOND)
        fleet.names.append("MAC")

        done = await fleet.finished(await work.start(fleet.command(), "ci"))

        assert done.progress == Progress(queued=1, already_queued=3)


async def test_a_job_of_a_killed_process_is_carried_on_by_another_without_doubles() -> None:
    async with Fleet(devices=200) as fleet:
        killed = fleet.start()
        job = await killed.start(fleet.command(Terms(priority=2)), "ci")
        while len(fleet.entries()) < 70:
            await asyncio.sleep(0)
        await fleet.kill(killed)
        # one of those that it queued was answered by its device meanwhile
        first = fleet.entries()[0]
        answered = replace(first, state=EntryState.ACKNOWLEDGED)
        fleet.world.queue.entries[first.id] = answered

        fleet.start()
        done = await fleet.finished(job)

        assert len(fleet.entries()) == 200
        assert {entry.priority for entry in fleet.entries()} == {2}
        assert fleet.world.queue.entries[first.id] == answered
        assert done.progress == Progress(queued=200)


async def test_a_job_whose_process_lives_is_left_to_it() -> None:
    async with Fleet(devices=3) as fleet:
        fleet.start()
        job = replace(running_job(fleet), owner="another")
        await fleet.jobs.add(job)
        for _ in range(10):
            await fleet.world.clock.run(STALE_AFTER / 2)
            assert await fleet.jobs.raise_heartbeat(job.id, "another", Progress())

        assert fleet.jobs.jobs[job.id].owner == "another"


async def test_a_silent_owner_is_replaced_by_the_clock_of_whoever_looks() -> None:
    async with Fleet(devices=3) as fleet:
        work = fleet.start()
        await settle()
        job = await stored_job(fleet, "another")
        await fleet.world.clock.run(STALE_AFTER)
        assert fleet.jobs.jobs[job.id].owner == "another"

        await fleet.world.clock.run(STALE_AFTER)

        done = await fleet.finished(job)
        assert done.owner != "another" and work
        assert done.progress.queued == 3


async def test_a_process_that_is_alone_takes_what_is_left_at_once() -> None:
    async with Fleet(devices=3) as fleet:
        job = await stored_job(fleet, "an earlier process")

        fleet.start(is_alone=True)
        await settle_long()

        assert fleet.jobs.jobs[job.id].state is JobState.FINISHED


async def test_a_job_that_was_stored_without_an_answer_is_carried_on_by_its_own_process() -> None:
    async with Fleet(devices=3) as fleet:
        work = fleet.start()
        fleet.jobs.loses_answers = True
        with pytest.raises(StoreUnavailable):
            await work.start(fleet.command(), "ci")
        [job] = fleet.jobs.jobs.values()

        done = await fleet.finished(job)

        assert done.progress == Progress(queued=3)


async def test_what_a_process_whose_clock_is_behind_queued_is_not_queued_anew() -> None:
    async with Fleet(devices=3) as fleet:
        fleet.world.clock.advance(MINUTE)
        job = await stored_job(fleet, None)
        fleet.world.clock.set_back(30 * SECOND)
        [first, *_] = fleet.names
        queue_service = fleet.world.queue_service
        await queue_service.enqueue_for(fleet.command(), [first], job.created_at)
        await fleet.world.queue.cancel_one(first, "c-1")

        fleet.start()
        await fleet.finished(job)

        [cancelled] = [entry for entry in fleet.entries() if entry.enrollment == first]
        assert cancelled.state is EntryState.CANCELLED


async def test_two_processes_with_one_job_queue_nothing_twice() -> None:
    async with Fleet(devices=300) as fleet:
        first, second = fleet.start(), fleet.start()
        job = await first.start(fleet.command(), "ci")
        await settle()
        there = fleet.jobs.jobs[job.id]
        fleet.jobs.jobs[job.id] = replace(there, owner=None)
        await fleet.world.clock.run(6 * SECOND)

        done = await fleet.finished(job)

        assert second
        assert len(fleet.entries()) == 300
        assert done.progress == Progress(queued=300)


async def test_a_process_that_ends_gives_its_jobs_away_at_once() -> None:
    async with Fleet(devices=500) as fleet:
        ending = fleet.start()
        job = await ending.start(fleet.command(), "ci")
        while len(fleet.entries()) < 50:
            await asyncio.sleep(0)

        await ending.drain()

        queued = len(fleet.entries())
        assert fleet.jobs.jobs[job.id].owner is None
        await settle_long()
        assert len(fleet.entries()) == queued < 500
        fleet.start()
        assert (await fleet.finished(job, 6 * SECOND)).progress == Progress(queued=500)


async def test_a_store_that_is_away_is_waited_for() -> None:
    async with Fleet(devices=100) as fleet:
        work = fleet.start()
        job = await work.start(fleet.command(), "ci")
        fleet.jobs.is_away = True
        await fleet.world.clock.run(10 * SECOND)
        fleet.jobs.is_away = False

        assert (await fleet.finished(job)).progress == Progress(queued=100)


async def test_a_queue_that_fails_in_the_middle_is_asked_again() -> None:
    async with Fleet(devices=200) as fleet:
        failures = iter([True] * 3)

        async def sometimes(operation: str) -> None:
            await asyncio.sleep(0)
            if operation == "insert" and len(fleet.entries()) >= 96 and next(failures, False):
                raise StoreUnavailable("away")

        fleet.world.queue.before = sometimes
        job = await fleet.start().start(fleet.command(), "ci")

        assert (await fleet.finished(job)).progress == Progress(queued=200)


async def test_the_time_to_live_counts_from_the_job() -> None:
    async with Fleet(devices=3) as fleet:
        work = fleet.start()
        await fleet.kill(work)
        job = await work.start(fleet.command(Terms(ttl=MINUTE)), "ci")
        fleet.world.clock.advance(30 * SECOND)
        fleet.start(is_alone=True)

        await fleet.finished(job)

        assert {entry.expires_at for entry in fleet.entries()} == {START + MINUTE}


async def test_a_command_whose_time_is_over_is_no_job() -> None:
    async with Fleet() as fleet:
        with pytest.raises(BadRequest, match="expires_at"):
            await fleet.start().start(fleet.command(Terms(expires_at=START)), "ci")

        assert fleet.jobs.jobs == {}


async def test_a_job_whose_command_cannot_be_opened_waits_for_whoever_can() -> None:
    async with Fleet() as fleet:
        first = fleet.start()
        await fleet.kill(first)
        job = await first.start(fleet.command(), "ci")
        fleet.world.queue.unreadable.add("c-1")
        fleet.start(is_alone=True)
        for _ in range(20):
            await fleet.world.clock.run(SECOND)
        assert not fleet.entries()

        fleet.world.queue.unreadable.clear()

        assert (await fleet.finished(job)).progress == Progress(queued=3)


async def test_a_job_whose_command_is_gone_fails_and_says_so() -> None:
    async with Fleet(devices=3) as fleet:
        job = await stored_job(fleet, None)
        await fleet.world.queue.forget({job.command_hash: fleet.world.clock.now()})
        fleet.start()

        failed = await fleet.ended(job)

        assert (failed.state, failed.error) == (
            JobState.FAILED,
            "its command is not stored any more",
        )
        assert failed.progress == Progress(refused=3)


async def test_a_job_whose_targets_are_gone_in_part_fails_with_what_is_known() -> None:
    async with Fleet(devices=PART_SIZE + 1) as fleet:
        job = await stored_job(fleet, None)
        del fleet.jobs.parts[part_id(job.id, 1)]
        fleet.start()

        failed = await fleet.ended(job)

        assert failed.state is JobState.FAILED
        assert failed.error == "1 of the 2 parts of its targets are not stored any more"
        assert failed.progress == Progress(queued=PART_SIZE, refused=1)


class _Poison(FakeJobs):
    """Documents of a job that fail each process that reads or writes them."""

    def __init__(self, job: str, error: Exception) -> None:
        super().__init__()
        self.job, self.error = job, error
        self.met = 0

    async def finish_part(self, part: JobPart) -> None:
        if part.job == self.job:
            self.met += 1
            raise self.error
        await super().finish_part(part)


@pytest.mark.parametrize("plist", [b"no property list", b"<plist><dict></dict></plist>"])
async def test_a_job_that_nobody_can_read_fails_and_ends_no_process(plist: bytes) -> None:
    async with Fleet(devices=3) as fleet:
        bad = Command("hash of it", "c-1", "ProfileList", plist)
        poison = await stored_job(fleet, "killed", bad)
        replicas = [fleet.start() for _ in range(3)]
        good = await replicas[0].start(fleet.command(uuid="c-2"), "ci")

        failed, done = await fleet.ended(poison), await fleet.finished(good)

        assert failed.state is JobState.FAILED and failed.error
        assert (failed.progress, done.progress) == (Progress(refused=3), Progress(queued=3))
        assert fleet.alive == 3
        assert fleet.world.metrics.jobs_failed._value.get() == 1


async def test_a_job_that_was_taken_in_under_other_limits_is_carried_on() -> None:
    """The poison of before: valid as JSON, and above the limits for property lists from outside."""
    async with Fleet(devices=3) as fleet:
        many = {"Configuration": {"items": list(range(MAX_NODES + 1))}}
        made = encode_command("c-1", "InstallApplication", many)
        work = fleet.start()
        await fleet.kill(work)
        job = await work.start(replace(fleet.command(), command=made), "ci")
        fleet.start()

        assert (await fleet.finished(job)).progress == Progress(queued=3)
        assert fleet.alive == 1


async def test_a_part_that_is_too_large_to_store_fails_its_job_alone() -> None:
    async with Fleet(devices=3) as fleet:
        fleet.jobs = poison = _Poison("", TooLarge("a document of 17 MB"))
        work = fleet.start()
        job = await work.start(fleet.command(), "ci")
        poison.job = job.id
        good = await work.start(fleet.command(uuid="c-2"), "ci")

        failed, done = await fleet.ended(job), await fleet.finished(good)

        assert (failed.state, failed.error) == (JobState.FAILED, "a document of 17 MB")
        assert done.progress == Progress(queued=3)


async def test_what_nobody_foresaw_is_tried_again_with_growing_pauses_and_holds_up_no_other_job() -> (
    None
):
    async with Fleet(devices=3) as fleet:
        fleet.jobs = poison = _Poison("", KeyError("what"))
        work = fleet.start()
        job = await work.start(fleet.command(), "ci")
        poison.job = job.id
        good = await work.start(fleet.command(uuid="c-2"), "ci")

        assert (await fleet.finished(good)).progress == Progress(queued=3)
        await fleet.world.clock.run(2 * MINUTE)
        assert 5 < poison.met < 12
        poison.job = ""
        assert (await fleet.finished(job, 2 * MINUTE)).progress == Progress(queued=3)


async def test_a_process_ends_at_once_though_a_job_rests_after_a_failure() -> None:
    async with Fleet(devices=3) as fleet:
        fleet.jobs = poison = _Poison("", KeyError("what"))
        work = fleet.start()
        job = await work.start(fleet.command(), "ci")
        poison.job = job.id
        await fleet.world.clock.run(MINUTE)

        await asyncio.wait_for(work.drain(), 5)

        assert fleet.jobs.jobs[job.id].owner is None


async def test_the_refusals_of_a_part_fit_into_one_document_however_long_their_reasons_are() -> (
    None
):
    tally = Tally()
    targets = [f"{number:0256}" for number in range(PART_SIZE)]

    tally.count(targets, [Conflict("\U0001f4bb" * 30_000)] * PART_SIZE, START)

    [first, *_] = part = tally.result(JobPart("job", 0, tuple(targets))).refusals
    assert first.error.endswith("...")
    assert sum(len(each.target + each.error) * 4 for each in part) < 4_000_000


async def test_whoever_waits_for_a_job_hears_when_it_is_finished() -> None:
    async with Fleet(devices=3) as fleet:
        work = fleet.start()
        job = await work.start(fleet.command(), "ci")

        await work.ended(job.id, MINUTE, never)

        assert fleet.jobs.jobs[job.id].state is JobState.FINISHED
        assert fleet.world.clock.monotonic() == 0


@pytest.mark.parametrize("end", ["time", "gone", "stop"])
async def test_whoever_waits_for_a_job_waits_no_longer_than(end: str) -> None:
    async with Fleet(devices=3) as fleet:
        work = fleet.start()
        fleet.world.at_store.stop("insert")
        job = await work.start(fleet.command(), "ci")
        gone = asyncio.Event()

        async def until_gone() -> None:
            await gone.wait()

        waiting = asyncio.create_task(work.ended(job.id, 10 * SECOND, until_gone))
        await settle()
        assert not waiting.done()
        match end:
            case "time":
                await fleet.world.clock.run(10 * SECOND)
            case "gone":
                gone.set()
            case "stop":
                work.stop()
        await settle()

        assert waiting.done()


async def test_one_push_request_for_a_push_is_of_many_devices() -> None:
    async with Fleet(devices=64) as fleet:
        await fleet.finished(await fleet.start().start(fleet.command(), "ci"))

        requested = fleet.world.push_requests.requested
        assert len(requested) <= 64 / PIECE_LIMIT
        assert set().union(*requested) == set(fleet.names)


async def test_a_single_command_goes_between_the_targets_of_a_job() -> None:
    async with Fleet(devices=2000) as fleet:
        world = fleet.world
        work = JobWorker(
            fleet.jobs, world.queue, world.queue_service, world.clock, world.ids, world.metrics
        )
        running = asyncio.create_task(work.run(Loops(world.clock)))
        await work.start(fleet.command(), "ci")
        while len(fleet.entries()) < 100:
            await asyncio.sleep(0)
        before = len(fleet.entries())

        await world.post("MAC", uuid="single")

        assert len(fleet.entries()) - before <= 3 * PIECE_LIMIT
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def running_job(fleet: Fleet) -> Job:
    prepared = fleet.command()
    return Job(
        id="job",
        command_uuid=prepared.command.uuid,
        command_hash=prepared.command.hash,
        request_type="ProfileList",
        terms=Terms(),
        says_apple=False,
        caller="ci",
        total=len(fleet.names),
        created_at=START,
    )


async def test_rule_13_a_job_that_waits_for_its_key_keeps_its_command() -> None:
    async with Fleet(devices=3) as fleet:
        job = await stored_job(fleet, owner=None)
        fleet.world.queue.unreadable.add("c-1")
        fleet.start()
        await fleet.world.clock.run(STALE_AFTER)
        fleet.world.clock.advance(timedelta(days=2))

        await forget(fleet.world)
        fleet.world.queue.unreadable.clear()

        done = await fleet.finished(job)
        assert done.progress == Progress(queued=3)


async def test_rule_13_a_command_goes_after_its_job_where_it_has_no_entry() -> None:
    async with Fleet(devices=0) as fleet:
        fleet.names.append("nobody")
        await fleet.finished(await fleet.start().start(fleet.command(), "ci"))
        fleet.world.clock.advance(timedelta(days=2))

        await forget(fleet.world)

        assert await fleet.world.queue.commands({fleet.command().command.hash}) == {}


async def test_rule_13_a_process_that_was_stopped_for_a_day_does_not_say_that_a_job_is_stored() -> (
    None
):
    class Slow(FakeJobs):
        async def add(self, job: Job) -> None:
            await super().add(job)
            if len(self.jobs) == 1:
                fleet.world.clock.advance(timedelta(days=2))

    async with Fleet(devices=3) as fleet:
        fleet.jobs = fleet.world.queue.jobs = Slow()

        with pytest.raises(Unavailable, match="was stopped"):
            await fleet.start().start(fleet.command(), "ci")

        [job] = fleet.jobs.jobs.values()  # the client asks again, which queues nothing twice
        await fleet.finished(job)


async def stored_job(fleet: Fleet, owner: str | None, command: Command | None = None) -> Job:
    """A job that a process stored and did not begin."""
    left = fleet.start()
    await fleet.kill(left)
    prepared = fleet.command()
    job = await left.start(replace(prepared, command=command or prepared.command), "ci")
    fleet.jobs.jobs[job.id] = replace(fleet.jobs.jobs[job.id], owner=owner)
    return job


# --- counting


def queued(*warnings: str) -> Queued:
    entry = QueueEntry("D", "D", "c", "h", "ProfileList", None, "1", accepted_at=START)
    return Queued(True, entry, warnings)


def test_warnings_are_counted_and_the_first_few_devices_named() -> None:
    tally = Tally()
    names = [f"D{number}" for number in range(20)]

    tally.count(names, [queued("old")] * 20, START)

    [(text, warned)] = tally.progress.warnings.items()
    assert (text, warned.count, warned.targets) == ("old", 20, tuple(names[:FIRST_FEW]))


def test_warnings_of_too_many_kinds_are_counted_together() -> None:
    tally = Tally()

    for number in range(MOST_WARNINGS + 30):
        tally.count(["D"], [queued(f"warning {number}")], START)

    assert len(tally.progress.warnings) == MOST_WARNINGS + 1
    assert tally.progress.warnings[MORE].count == 30


def test_a_sum_of_sums_is_the_sum() -> None:
    whole, parts = Tally(), [Tally(), Tally()]
    outcomes: list[Queued | MdmError] = [queued("a"), NotFound("no"), queued("a", "b")]
    whole.count(["1", "2", "3"], outcomes, START)
    parts[0].count(["1"], outcomes[:1], START)
    parts[1].count(["2", "3"], outcomes[1:], START)
    total = Tally()

    for part in parts:
        total.add(part.progress)

    assert total.progress == whole.progress
