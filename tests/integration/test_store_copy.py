"""`python -m services store copy` as a process: what it refuses, what it says, and what it leaves."""

import asyncio
import os
import signal
import sqlite3
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bson
import pytest

from services.runtime.single_process import locked_folder
from services.runtime.store_folder import COPYING
from shared.concurrency.clock import SystemClock
from shared.storage.indexes import all_indexes
from shared.storage.sqlite import FILE, open_database
from tests.integration.test_all_in_one import Installation, ended
from tests.support.harness.system import SECRET_KEY

ROOT = Path(__file__).parents[2]
MANY = 4_000


def source_of(folder: Path, devices: int = 3) -> Path:
    """A data folder with a store and both keys."""

    async def fill() -> None:
        database = open_database(folder, SystemClock())
        await database.ensure(all_indexes())
        documents = [{"_id": f"device-{n}", "names": [f"S{n}"]} for n in range(devices)]
        assert await database.collection("enrollments").insert_many(documents) == set()
        await database.close()

    asyncio.run(fill())
    (folder / "secret-key").write_text("the secret key\n")
    (folder / "api-key").write_text("the api key\n")
    return folder


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    return await asyncio.to_thread(source_of, tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


async def run(*arguments: str | Path, **environ: str) -> tuple[int, str]:
    """The exit code of `store copy`, and all that it said."""
    process = await begin(*arguments, **environ)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def begin(*arguments: str | Path, **environ: str) -> asyncio.subprocess.Process:
    python = environ.pop("PYTHON", sys.executable)
    return await asyncio.create_subprocess_exec(
        python, "-m", "services", "store", "copy", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
    )  # fmt: skip


def refusal(said: str) -> str:
    """The last line, which says why."""
    return said.strip().splitlines()[-1]


def documents(folder: Path) -> dict[str, dict[str, object]]:
    with opened(folder) as connection:
        found = connection.execute("SELECT _document FROM enrollments").fetchall()
    return {document["_id"]: document for (blob,) in found for document in [bson.decode(blob)]}


def indexes(folder: Path) -> set[tuple[object, ...]]:
    """What all versions of an index have in common, whatever the retention."""
    with opened(folder) as connection:
        return set(
            connection.execute(
                "SELECT collection, name, keys, is_unique, is_sparse, of_array, "
                "expire_seconds IS NULL, ready FROM _indexes"
            )
        )


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(folder / FILE)
    try:
        yield connection
    finally:
        connection.close()


async def test_a_copy_has_all_documents_and_the_keys_that_only_their_owner_can_read(
    source: Path, target: Path
) -> None:
    code, said = await run("--from", source, "--to", target)

    assert code == 0, said
    assert f"done: 3 documents are in {target}" in said
    assert documents(target) == documents(source)
    assert not (target / COPYING).exists()
    for name, content in {"secret-key": "the secret key\n", "api-key": "the api key\n"}.items():
        assert (target / name).read_text() == content
        assert (target / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.real
async def test_a_copy_goes_to_mongodb_and_back(
    source: Path, target: Path, mongodb_url: str
) -> None:
    code, said = await run("--from", source, "--to", mongodb_url)
    assert code == 0, said
    assert "no service may run on the MongoDB of --to until" in said
    assert f"MDM_SECRET_KEY must be the content of {source}/secret-key" in said

    code, said = await run("--from", mongodb_url, "--to", target)
    assert code == 0, said
    assert "no service may run on the MongoDB of --from until" in said
    assert "MDM_SECRET_KEY must stay what it was for the MongoDB of --from" in said
    assert documents(target) == documents(source)


async def test_a_new_store_has_the_indexes_that_the_services_make(
    source: Path, target: Path, tmp_path: Path
) -> None:
    installation = Installation(tmp_path / "ours")
    async with installation.serving() as (process, _):
        process.terminate()
        await ended(process)

    code, said = await run("--from", source, "--to", target)

    assert code == 0, said
    assert indexes(target) == indexes(installation.folder)


async def test_a_copy_killed_half_way_is_not_served_from_and_goes_on(
    tmp_path: Path, target: Path
) -> None:
    source = await asyncio.to_thread(source_of, tmp_path / "source", MANY)
    process = await begin("--from", source, "--to", target)
    async with asyncio.timeout(30):
        while not (target / FILE).exists() or not (target / FILE).stat().st_size:
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    await process.communicate()

    server = await Installation(target).run("all")
    refused, why = await ended(server)
    unusable, why_not = await run("--from", target, "--to", tmp_path / "third")
    code, said = await run("--from", source, "--to", target)

    assert refused == 2
    assert f"the copy into {target} is not finished" in refusal(why)
    assert (unusable, refusal(why_not)) == (
        2, f"macromdm: --from: the copy into {target} was not finished",
    )  # fmt: skip
    assert code == 0, said
    assert len(documents(target)) == MANY
    async with Installation(target, {"MDM_SECRET_KEY": SECRET_KEY}).serving():
        pass


async def test_a_different_document_leaves_the_target_as_it_was(source: Path, target: Path) -> None:
    await asyncio.to_thread(source_of, target, 1)
    with opened(target) as connection:
        other = {"_id": "device-0", "names": ["another"]}
        connection.execute("UPDATE enrollments SET _document = ?", (bson.encode(other),))
        connection.commit()

    code, said = await run("--from", source, "--to", target)

    assert code == 1
    assert refusal(said) == (
        "macromdm: collection enrollments: document 'device-0' differs in the target"
    )
    assert documents(target) == {"device-0": other}
    assert not (target / COPYING).exists()


@pytest.mark.parametrize("name", ["secret-key", "api-key"])
async def test_a_key_is_never_written_over_another(source: Path, target: Path, name: str) -> None:
    target.mkdir()
    (target / name).write_text("another\n")

    code, said = await run("--from", source, "--to", target)

    assert code == 2
    assert refusal(said).startswith(f"macromdm: --to: {target / name} is another key than")
    assert (target / name).read_text() == "another\n"
    assert not (target / FILE).exists()


@pytest.mark.parametrize("held", ["source", "target"])
async def test_a_folder_in_use_is_refused(tmp_path: Path, source: Path, held: str) -> None:
    with locked_folder(tmp_path / held):
        code, said = await run("--from", source, "--to", tmp_path / "target")

    assert code == 2
    assert f"another process uses {tmp_path / held}" in refusal(said)


async def test_entries_that_cannot_be_copied_are_refused(source: Path, tmp_path: Path) -> None:
    empty, url = tmp_path / "empty", "mongodb://127.0.0.1:1/one"
    empty.mkdir()
    former = tmp_path / "former"
    (former / "store").mkdir(parents=True)
    (former / "store" / "WiredTiger").write_text("")

    for arguments, why in {
        (empty, source): f"--from: there is no store in {empty}",
        (tmp_path / "none", source): f"--from: there is no store in {tmp_path / 'none'}",
        (source, source): "--to: is the same as --from, which has no store of an earlier version",
        (url, url): "--to: is the same as --from",
        (source, former): f"--to: {former} has the store of an earlier version itself",
    }.items():
        code, said = await run("--from", arguments[0], "--to", arguments[1])
        assert (code, refusal(said)) == (2, f"macromdm: {why}")

    assert list(empty.iterdir()) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.real
async def test_an_empty_source_is_refused(mongodb_url: str, target: Path) -> None:
    code, said = await run("--from", mongodb_url, "--to", target)

    assert code == 2
    assert refusal(said) == "macromdm: --from: there is nothing in the MongoDB of --from"
    assert not (target / FILE).exists()


@pytest.mark.parametrize(
    ("url", "code"),
    [("mongodb://user:s3cret@127.0.0.1:1/one", 1), ("mongodb://user:s3c/ret@host/one", 2)],
    ids=["nobody answers", "no URL"],
)
async def test_no_secret_of_a_url_is_shown(
    source: Path, tmp_path: Path, url: str, code: int
) -> None:
    for arguments in (("--from", source, "--to", url), ("--from", url, "--to", tmp_path / "new")):
        ends, said = await run(*arguments)

        assert ends == code
        assert "s3c" not in said
        assert "ret@" not in said
        assert refusal(said).startswith("macromdm: ")


async def test_without_the_former_stores_program_it_says_how_to_install_it(tmp_path: Path) -> None:
    """A Python beside which there is no such program."""
    folder = tmp_path / "data"
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "WiredTiger").write_text("")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    packages = f"{ROOT}:{sysconfig.get_path('purelib')}"

    code, said = await run(
        "--from", folder, "--to", folder,
        PYTHON=str(python), PYTHONPATH=packages, PATH=str(tmp_path / "bin"),
    )  # fmt: skip

    assert code == 2
    assert refusal(said).startswith("macromdm: the program of the former store is not installed")
    assert "pip install 'macromdm[former]'" in refusal(said)
    assert {path.name for path in folder.iterdir()} == {"store", "lock"}
