"""Writes that belong to one answer share a commit of the embedded store."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.concurrency.clock import SystemClock
from shared.domain.command import Command, EntryState, QueueEntry
from shared.ports.queue import Report, SendClaim
from shared.security.encryption import AesKeyring
from shared.storage.queue.documents import indexes
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.sqlite import open_database
from tests.support.harness.meddled_store import Meddler

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def entry(uuid: str) -> QueueEntry:
    return QueueEntry("d", "d", uuid, "hash", "DeviceInformation", "g", uuid, accepted_at=NOW)


async def test_a_report_and_the_next_command_are_one_commit(tmp_path: Path) -> None:
    meddler = Meddler()
    database = open_database(tmp_path, SystemClock(), factory=meddler.kind)
    await database.ensure(indexes(timedelta(days=30)))
    queue = MongoCommandQueue(database, AesKeyring([b"a secret key for tests: 32 bytes"]))
    await queue.insert([entry("1"), entry("2")])
    await queue.mark_sent([SendClaim(entry("1"), "g", counts=False)], "answer 1", NOW)
    before = commits(meddler)

    closed, won = await asyncio.gather(
        queue.report([Report("d", "1", "g", EntryState.ACKNOWLEDGED, "event")], NOW),
        queue.mark_sent([SendClaim(entry("2"), "g", counts=False)], "answer 2", NOW),
    )

    assert (closed, won) == (1, {entry("2").id})
    assert commits(meddler) == before + 1
    await database.close()


async def test_commands_their_entries_and_the_end_of_older_ones_are_one_commit(
    tmp_path: Path,
) -> None:
    meddler = Meddler()
    database = open_database(tmp_path, SystemClock(), factory=meddler.kind)
    await database.ensure(indexes(timedelta(days=30)))
    queue = MongoCommandQueue(database, AesKeyring([b"a secret key for tests: 32 bytes"]))
    older, newer = (replace(entry(uuid), collapse_key="k") for uuid in "12")
    commands = [Command(uuid * 64, uuid, "DeviceInformation", b"<plist/>") for uuid in "12"]
    await queue.put(commands[:1], [older], [], NOW)
    rivals = await queue.rivals([newer])
    before = commits(meddler)

    assert await queue.put(commands[1:], [newer], rivals, NOW) == ([None], 1)

    assert commits(meddler) == before + 1
    await database.close()


def commits(meddler: Meddler) -> int:
    return sum(each.sql == "COMMIT" for each in meddler.done)
