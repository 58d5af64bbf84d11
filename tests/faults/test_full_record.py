"""One record that the store cannot change any more: everybody else is served, over a kill and a restart."""

import asyncio
from pathlib import Path

import bson

from shared.storage.remote import RemoteDatabase
from tests.integration.whole import Device, whole_server

MOST = 16 * 1024 * 1024
NAME_AND_LENGTH = 1 + len("filler\0") + 4 + 1
NEIGHBOURS = 8


async def fill(folder: Path, device: str) -> None:
    """Beside the process that holds the folder, by its socket."""
    records = RemoteDatabase(folder).collection("enrollments")
    [record] = await records.find({"_id": device})
    free = MOST - len(bson.encode(record)) - NAME_AND_LENGTH
    await records.update_one({"_id": device}, {"$set": {"filler": "x" * free}})


async def longer_tokens(devices: list[Device]) -> list[int]:
    answers = await asyncio.gather(
        *(device.token_update(PushMagic="longer than it was" * 10) for device in devices)
    )
    return [answer.status_code for answer in answers]


async def test_beside_a_full_record_all_others_are_served_over_a_kill_and_a_restart(
    tmp_path: Path,
) -> None:
    async with whole_server(tmp_path) as whole:
        full, *neighbours = [await whole.enrolled() for _ in range(1 + NEIGHBOURS)]
        await fill(tmp_path / "all" / "data", full.id)

        refused, *served = await longer_tokens([full, *neighbours])
        await asyncio.to_thread(whole.process.kill)
        await asyncio.to_thread(whole.process.start)
        refused_again, *served_again = await longer_tokens([full, *neighbours])
        idle = [(await device.connect()).status_code for device in neighbours]

        assert (refused, refused_again) == (400, 400)
        assert served == served_again == idle == [200] * NEIGHBOURS
        for device in neighbours:
            await whole.events_of(device.id, 5)
