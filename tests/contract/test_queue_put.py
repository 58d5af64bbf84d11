"""The contract of `CommandQueue.put`: commands, their entries, and the end of older ones."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.domain.command import EntryState
from shared.ports.queue import CommandQueue
from tests.contract.stores import STORES
from tests.contract.test_queue import (
    MINUTE,
    NOW,
    Kept,
    command,
    entry,
    mark_sent,
    open_kept,
    stored,
)
from tests.contract.test_queue_terms import states


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    async with open_kept(request) as made:
        yield made


@pytest.fixture
def queue(kept: Kept) -> CommandQueue:
    return kept.queue


async def test_entries_are_put_with_their_commands_and_end_their_rivals(
    queue: CommandQueue,
) -> None:
    sent, waits = entry("c1", collapse_key="k"), entry("c2", collapse_key="k")
    await queue.insert([sent, waits])
    await mark_sent(queue, sent)
    newest, plain = entry("c9", collapse_key="k"), entry("c8")
    rivals = await queue.rivals([newest])

    there, ended = await queue.put([command("a")], [newest, plain], rivals, NOW)

    assert (there, ended) == ([None, None], 1)
    assert await states(queue, sent, waits, newest, plain) == [
        EntryState.SENT,
        EntryState.SUPERSEDED,
        EntryState.QUEUED,
        EntryState.QUEUED,
    ]
    assert (await stored(queue, waits)).superseded_by == newest.command_uuid
    assert await queue.commands([command("a").hash]) == {command("a").hash: command("a")}


async def test_a_rival_that_changed_since_it_was_read_does_not_end(queue: CommandQueue) -> None:
    sent, again = entry("c1", collapse_key="k"), entry("c2", collapse_key="k")
    await queue.insert([sent, again])
    newest = entry("c9", collapse_key="k")
    rivals = await queue.rivals([newest])
    await mark_sent(queue, sent)
    await queue.cancel_one(again.enrollment, again.command_uuid)
    assert await queue.requeue(replace(again, order="order-95"), await stored(queue, again))

    assert await queue.put([], [newest], rivals, NOW) == ([None], 0)

    assert await states(queue, sent, again, newest) == [
        EntryState.SENT,
        EntryState.QUEUED,
        EntryState.QUEUED,
    ]


async def test_beside_an_entry_that_is_there_no_rival_ends(queue: CommandQueue) -> None:
    waits, newest = entry("c1", collapse_key="k"), entry("c9", collapse_key="k")
    await queue.insert([waits, newest])
    rivals = [each for each in await queue.rivals([newest]) if each.command_uuid == "c1"]

    there, ended = await queue.put([command("a")], [newest, entry("c8")], rivals, NOW)

    assert ([each and each.id for each in there], ended) == ([newest.id, None], 0)
    assert set(await states(queue, waits, newest, entry("c8"))) == {EntryState.QUEUED}


async def test_what_is_put_touches_a_command_that_is_stored(kept: Kept) -> None:
    await kept.queue.store([command("a")], NOW)

    put = await kept.queue.put([command("a"), command("b")], [entry("c1")], [], NOW + MINUTE)

    assert put == ([None], 0)
    touched = await kept.commands.untouched("", NOW + 2 * MINUTE)
    assert touched == {command("a").hash: NOW + MINUTE, command("b").hash: NOW + MINUTE}


async def test_what_is_put_ends_no_rival_that_was_not_read(queue: CommandQueue) -> None:
    older, newer = entry("c1", collapse_key="k"), entry("c9", collapse_key="k")

    assert await queue.put([], [older, newer], [], NOW) == ([None, None], 0)

    assert set(await states(queue, older, newer)) == {EntryState.QUEUED}


async def test_what_is_put_ends_no_newer_rival(queue: CommandQueue) -> None:
    newer, older = entry("c9", collapse_key="k"), entry("c1", collapse_key="k")
    await queue.insert([newer])

    assert await queue.put([], [older], await queue.rivals([older]), NOW) == ([None], 0)

    assert set(await states(queue, older, newer)) == {EntryState.QUEUED}


async def test_rivals_end_though_the_command_was_stored_before(queue: CommandQueue) -> None:
    waits, newest = entry("c1", collapse_key="k"), entry("c9", collapse_key="k")
    await queue.insert([waits])
    await queue.store([command("a")], NOW)

    put = await queue.put([command("a"), command("b")], [newest], await queue.rivals([newest]), NOW)

    assert put == ([None], 1)
    assert await states(queue, waits, newest) == [EntryState.SUPERSEDED, EntryState.QUEUED]
