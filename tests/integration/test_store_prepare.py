"""`python -m services store prepare`: what the Job runs before the services of a version start."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pymongo
import pytest

from tests.support.harness.processes import free_port
from tests.support.harness.system import SECRET_KEY, System

pytestmark = pytest.mark.real

RETENTIONS = {
    "MDM_EVENT_RETENTION": "40 d",
    "MDM_COMMAND_RETENTION": "20 d",
    "MDM_AUDIT_RETENTION": "70 d",
}
DAY = 86_400
SAID = (
    "making the indexes of this version, which takes minutes on a large store\n"
    "the store is prepared\n"
)


async def prepare(mongodb_url: str) -> tuple[int, str]:
    """Run it with the settings that the Job gives it; its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", "store", "prepare"),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd()),
            "MDM_MONGODB_URL": mongodb_url,
            "MDM_SECRET_KEY": SECRET_KEY,
            **RETENTIONS,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def indexes(mongodb_url: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Every index by its collection and name, without those that each collection has."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_url) as client:
        database = client.get_default_database()
        return {
            (collection, name): {key: value for key, value in index.items() if key != "v"}
            for collection in database.list_collection_names()
            for name, index in database[collection].index_information().items()
            if name != "_id_"
        }


def lives(indexes: dict[tuple[str, str], dict[str, Any]]) -> dict[str, set[int]]:
    """How many days documents live, by collection."""
    found: dict[str, set[int]] = {}
    for (collection, _), index in indexes.items():
        if index.get("expireAfterSeconds"):
            found.setdefault(collection, set()).add(index["expireAfterSeconds"] // DAY)
    return found


async def test_the_services_find_every_index_as_they_would_make_it(
    tmp_path: Path, mongodb_url: str, amqp_url: str
) -> None:
    assert await prepare(mongodb_url) == (0, SAID)
    prepared = await asyncio.to_thread(indexes, mongodb_url)

    system = System(
        tmp_path, {"MDM_MONGODB_URL": mongodb_url, "MDM_AMQP_URL": amqp_url, **RETENTIONS}
    )
    try:
        await asyncio.to_thread(system.start)
        assert await prepare(mongodb_url) == (0, SAID)
        used = await asyncio.to_thread(indexes, mongodb_url)
    finally:
        system.close()

    assert len(prepared) > 20
    assert used == prepared
    assert lives(prepared)["events"] == {40}
    assert lives(prepared)["audit"] == {70}


async def test_without_a_store_it_fails_in_one_line() -> None:
    away = f"mongodb://127.0.0.1:{free_port()}/macromdm?serverSelectionTimeoutMS=500"

    code, said = await prepare(away)

    assert code == 1
    assert said.splitlines()[-1].startswith("macromdm: ")
    assert "Traceback" not in said
