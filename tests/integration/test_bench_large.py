"""The large store of `make bench ARGS=--large`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.concurrency.clock import SystemClock
from shared.domain.command import EntryState
from shared.ports.queue import EntryWindow
from shared.security.encryption import AesKeyring
from shared.storage.enrollments import documents as enrollments
from shared.storage.enrollments.store import INDEXES, MongoEnrollments
from shared.storage.queue.documents import COMMANDS, indexes
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.sqlite import FILE, open_database
from tests.load.bench_fleet import KEYRING
from tests.load.bench_large import Fleet, fill

FLEET = Fleet(enrollments=6, commands=20)
MONTH = timedelta(days=30)


async def test_what_is_filled_in_is_read_as_what_services_have_written(tmp_path: Path) -> None:
    keyring = AesKeyring([KEYRING])
    database = open_database(tmp_path, SystemClock())
    await database.ensure([*INDEXES, *indexes(MONTH)])
    for name in (enrollments.CERTIFICATES, COMMANDS):
        await database.collection(name).insert_many([{"_id": "first"}])
    await database.close()

    fill(tmp_path / FILE, FLEET)

    database = open_database(tmp_path, SystemClock())
    try:
        queue, now = MongoCommandQueue(database, keyring), datetime.now(UTC)
        found = await MongoEnrollments(database, keyring).load({FLEET.name(0), FLEET.name(5)})
        entries = await queue.accepted_in(EntryWindow(now - MONTH, now, FLEET.name(1)))
        commands = await queue.commands([entry.command_hash for entry in entries])
    finally:
        await database.close()
    assert len(found) == 2
    assert {entry.state for entry in entries} == {EntryState.ACKNOWLEDGED}
    assert len(entries) == len(commands) == 4
    assert not any(command.unreadable for command in commands.values())
