"""One process only may run with the in-process broker."""

import asyncio
import errno
import fcntl
import os
from datetime import timedelta
from pathlib import Path

import pytest

from services.runtime.single_process import (
    HEARTBEAT,
    LOCK_POLL,
    LOOK,
    ROLE,
    Alone,
    FolderInUse,
    held_folder,
    locked_folder,
)
from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops
from shared.domain.errors import Misconfigured
from shared.ports.clock import Clock
from shared.storage.remote import StoreServer
from shared.storage.sqlite import open_database
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.journal import FakeMembers


async def entering(alone: Alone, clock: FakeClock) -> "asyncio.Task[None]":
    """`enter`, come as far as its look at the others."""
    task = asyncio.ensure_future(alone.enter(Loops(clock)))
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def finished(task: "asyncio.Task[None]", clock: FakeClock, after: timedelta) -> None:
    clock.advance(after)
    await asyncio.wait({task}, timeout=5)


async def test_the_first_process_enters_at_once():
    clock, members = FakeClock(), FakeMembers()

    await Alone(members, clock, "me").enter(Loops(clock))

    assert set(await members.heartbeats(ROLE)) == {"me"}


async def test_rule_10_a_process_is_refused_while_another_is_alive():
    clock, members = FakeClock(), FakeMembers()
    await members.raise_heartbeat(ROLE, "other")

    task = await entering(Alone(members, clock, "me"), clock)
    await members.raise_heartbeat(ROLE, "other")
    await finished(task, clock, LOOK)

    assert isinstance(task.exception(), Misconfigured)
    assert set(await members.heartbeats(ROLE)) == {"other"}


async def test_a_process_takes_the_entry_of_one_that_was_killed():
    clock, members = FakeClock(), FakeMembers()
    await members.raise_heartbeat(ROLE, "killed")

    task = await entering(Alone(members, clock, "me"), clock)
    await finished(task, clock, LOOK)

    assert task.exception() is None
    assert set(await members.heartbeats(ROLE)) == {"me"}


async def test_of_two_that_start_at_once_not_both_enter():
    clock, members = FakeClock(), FakeMembers()
    await members.raise_heartbeat(ROLE, "killed")

    first = await entering(Alone(members, clock, "a"), clock)
    second = await entering(Alone(members, clock, "b"), clock)
    await finished(first, clock, LOOK)
    await asyncio.wait({second}, timeout=5)

    assert any(isinstance(task.exception(), Misconfigured) for task in (first, second))


async def test_rule_10_a_process_that_was_stopped_and_replaced_ends_when_it_wakes():
    clock, members = FakeClock(), FakeMembers()
    alone = Alone(members, clock, "woken")
    await alone.enter(Loops(clock))
    watching = asyncio.ensure_future(alone.watch())

    for _ in range(3):
        await members.raise_heartbeat(ROLE, "newer")
        for _ in range(20):
            await asyncio.sleep(0)
        clock.advance(HEARTBEAT)
    await asyncio.wait({watching}, timeout=5)

    assert isinstance(watching.exception(), Misconfigured)


async def test_rule_10_a_process_that_is_long_in_starting_is_found_alive():
    clock, members = FakeClock(), FakeMembers()
    await Alone(members, clock, "starting").enter(Loops(clock))
    await clock.run(10 * LOOK)

    task = asyncio.ensure_future(Alone(members, clock, "me").enter(Loops(clock)))
    await clock.run(LOOK)
    await asyncio.wait({task}, timeout=5)

    assert isinstance(task.exception(), Misconfigured)


async def test_rule_10_a_process_that_was_replaced_while_it_started_does_not_serve():
    clock, members = FakeClock(), FakeMembers()
    alone = Alone(members, clock, "starting")
    await alone.enter(Loops(clock))

    for _ in range(3):
        await members.raise_heartbeat(ROLE, "newer")
        await clock.run(HEARTBEAT)

    with pytest.raises(Misconfigured):
        alone.check()


async def test_a_process_that_left_heartbeats_no_more():
    clock, members = FakeClock(), FakeMembers()
    alone = Alone(members, clock, "me")
    await alone.enter(Loops(clock))
    watching = asyncio.ensure_future(alone.watch())
    await clock.run(HEARTBEAT)
    watching.cancel()
    await alone.leave()
    await clock.run(HEARTBEAT)

    assert await members.heartbeats(ROLE) == {}


async def test_a_folder_that_a_short_command_holds_is_waited_for(tmp_path: Path):
    with locked_folder(tmp_path):
        waiting = asyncio.create_task(held(tmp_path, SystemClock(), timedelta(minutes=1)))
        await asyncio.sleep(0.3)
        assert not waiting.done()

    async with asyncio.timeout(5):
        await waiting


async def test_a_folder_that_is_held_for_long_is_given_up(tmp_path: Path):
    clock = FakeClock()

    with locked_folder(tmp_path):
        waiting = asyncio.create_task(held(tmp_path, clock, 30 * LOCK_POLL))
        await clock.run(31 * LOCK_POLL)
        await asyncio.wait({waiting}, timeout=5)

    error = waiting.exception()
    assert isinstance(error, FolderInUse)
    assert not error.is_served


async def test_a_folder_that_a_server_holds_is_not_waited_for(tmp_path: Path):
    with locked_folder(tmp_path):
        database = open_database(tmp_path, SystemClock())
        server = StoreServer(database, tmp_path)
        await server.start()

        async with asyncio.timeout(5):
            with pytest.raises(FolderInUse) as refused:
                await held(tmp_path, SystemClock(), timedelta(minutes=1))

        await server.close()
        await database.close()
    assert refused.value.is_served


async def held(folder: Path, clock: Clock, patience: timedelta) -> None:
    async with held_folder(folder, clock, patience):
        pass


def test_a_folder_is_held_by_one_process(tmp_path: Path):
    with locked_folder(tmp_path / "data"), pytest.raises(Misconfigured, match="MDM_DATA_DIR"):
        locked_folder(tmp_path / "data").__enter__()

    with locked_folder(tmp_path / "data"):
        assert (tmp_path / "data" / "lock").stat().st_mode & 0o777 == 0o600


def test_an_error_of_what_is_done_in_a_folder_stays_what_it_is(tmp_path: Path):
    with pytest.raises(BlockingIOError), locked_folder(tmp_path):
        raise BlockingIOError

    with locked_folder(tmp_path):
        pass


def test_a_file_system_without_locks_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(
        Misconfigured, match=r"MDM_DATA_DIR: cannot lock .*No locks available"
    ) as refused:
        locked_folder(tmp_path).__enter__()

    assert not isinstance(refused.value, FolderInUse)
