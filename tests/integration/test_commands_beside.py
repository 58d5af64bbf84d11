"""Small commands work on a data folder beside its server, and without one."""

import asyncio
import base64
import fcntl
import os
import secrets
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.installation import Installation, ended


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "data")


@asynccontextmanager
async def maybe_serving(installation: Installation, is_serving: bool) -> AsyncIterator[None]:
    """Beside a server, or after one."""
    async with installation.serving() as (process, _):
        if is_serving:
            yield
            return
        process.terminate()
        await ended(process)
    yield


BOTH = pytest.mark.parametrize("is_serving", [True, False], ids=["beside a server", "alone"])


@BOTH
async def test_tokens_are_made_and_listed(installation: Installation, is_serving: bool):
    async with maybe_serving(installation, is_serving):
        made = await installation.does("token", "create", "reader", "--scope", "read")
        listed = await installation.does("token", "list")

    assert (made[0], listed[0]) == (0, 0), made[2] + listed[2]
    assert "  reader  read  good" in listed[1]


async def test_a_token_that_is_made_beside_a_server_opens_its_api(installation: Installation):
    async with installation.serving(), httpx.AsyncClient() as client:
        _, said, _ = await installation.does("token", "create", "reader", "--scope", "read")
        answer = await client.post(
            f"http://127.0.0.1:{installation.port}/v1/devices",
            headers={"authorization": f"Bearer {said.split()[-1]}"},
        )

    assert answer.status_code == 200


def audit_retentions(installation: Installation) -> list[int]:
    """The seconds that its store keeps audit entries for, as far as it has this index."""
    with sqlite3.connect(installation.folder / "store.db") as connection:
        found = connection.execute(
            "SELECT expire_seconds FROM _indexes "
            "WHERE collection = 'audit' AND expire_seconds IS NOT NULL"
        ).fetchall()
    connection.close()
    return [seconds for (seconds,) in found]


@BOTH
async def test_a_command_leaves_the_retention_of_the_server_as_it_is(
    installation: Installation, is_serving: bool
):
    installation.more["MDM_AUDIT_RETENTION"] = "3650d"
    async with maybe_serving(installation, is_serving):
        del installation.more["MDM_AUDIT_RETENTION"]  # a shell that does not know of it
        made = await installation.does("token", "create", "reader", "--scope", "read")

    assert made[0] == 0, made[2]
    assert audit_retentions(installation) == [3650 * 24 * 60 * 60]


async def test_a_token_that_is_made_before_the_first_server_keeps_its_name_and_its_audit_entry(
    installation: Installation,
):
    made = await installation.does("token", "create", "reader", "--scope", "admin")
    again = await installation.does("token", "create", "reader", "--scope", "read")
    assert audit_retentions(installation) == []

    async with installation.serving(), httpx.AsyncClient() as client:
        answer = await client.get(
            f"http://127.0.0.1:{installation.port}/v1/audit",
            headers={"authorization": f"Bearer {made[1].split()[-1]}"},
        )

    assert (made[0], again[0]) == (0, 1), made[2] + again[2]
    assert [entry["action"] for entry in answer.json()["entries"]] == ["token.create"], answer.text
    assert len(audit_retentions(installation)) == 1


@BOTH
async def test_secrets_are_rotated(installation: Installation, is_serving: bool):
    async with maybe_serving(installation, is_serving):
        old = (installation.folder / "secret-key").read_text().strip()
        new = base64.b64encode(secrets.token_bytes(32)).decode()
        installation.more["MDM_SECRET_KEY"] = f"{new},{old}"
        rotated = await installation.does("rotate-secrets")

    assert rotated[0] == 0, rotated[2]
    assert "1 values re-encrypted" in rotated[1]


@BOTH
async def test_deliveries_are_listed_by_a_server_alone(
    installation: Installation, is_serving: bool
):
    async with maybe_serving(installation, is_serving):
        code, said, reason = await installation.does("deliveries", "list")

    if is_serving:
        assert (code, said) == (0, "no dead letters\n"), reason
    else:
        assert (code, "does it run?" in reason) == (1, True), reason


async def test_commands_that_come_while_a_server_ends_wait_for_the_folder_and_for_each_other(
    installation: Installation,
):
    async with installation.serving() as (process, _):
        process.terminate()
        commands = [installation.does("token", "list") for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            done = [tasks.create_task(command) for command in commands]
        await ended(process)

    assert [task.result()[0] for task in done] == [0, 0, 0], [task.result()[2] for task in done]


async def test_after_kill_9_commands_work_alone_and_then_beside_the_next_server(
    installation: Installation,
):
    async with installation.serving() as (process, _):
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert (installation.folder / "store.sock").exists()
    alone = await installation.does("token", "create", "one", "--scope", "read")

    async with installation.serving():
        beside = await installation.does("token", "list")

    assert (alone[0], beside[0]) == (0, 0)
    assert "  one  " in beside[1]


async def test_a_server_waits_for_a_short_command_and_says_so(installation: Installation):
    installation.folder.mkdir()
    handle = os.open(installation.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    process = await installation.run("all")
    assert process.stderr is not None and process.stdout is not None

    async with asyncio.timeout(20):
        while b"waits_for_folder" not in (line := await process.stderr.readline()):
            assert line
        os.close(handle)
        await process.stdout.readuntil(b"/metrics\n")
    process.terminate()

    assert (await ended(process))[0] == 0


# --- store backup, store check


@BOTH
async def test_a_backup_can_be_served_from_and_is_whole(
    installation: Installation, tmp_path: Path, is_serving: bool
):
    await installation.does("token", "create", "kept", "--scope", "read")
    target = tmp_path / "one.db"

    async with maybe_serving(installation, is_serving):
        written = await installation.does("store", "backup", str(target))
        again = await installation.does("store", "backup", str(target))
        checked = await installation.does("store", "check")

    assert written[0] == 0, written[2]
    assert f"the store is in {target}" in written[1]
    assert again[0] == 2
    assert again[2].splitlines()[-1] == (
        f"macromdm: {target} is there already; give the backup another name"
    )
    assert checked[0] == 0, checked[2]
    assert "the store is whole: " in checked[1]
    new = Installation(tmp_path / "new")
    new.folder.mkdir()
    shutil.copy(target, new.folder / "store.db")
    shutil.copy(installation.folder / "secret-key", new.folder)
    assert (await new.does("store", "check"))[0] == 0
    async with new.serving():
        assert "  kept  " in (await new.does("token", "list"))[1]


async def test_a_store_that_is_not_whole_is_exit_code_1_and_says_what_is_wrong(
    installation: Installation,
):
    async with installation.serving():
        await installation.does("token", "create", "kept", "--scope", "read")
        with sqlite3.connect(installation.folder / "store.db", timeout=10) as other:
            other.execute("UPDATE tokens SET _document = x'00'")
        other.close()
        code, said, errors = await installation.does("store", "check")

    assert code == 1
    assert "tokens, row 1: its document cannot be read" in said
    assert errors.splitlines()[-1].startswith("macromdm: the store in ")


async def test_a_store_that_cannot_be_opened_is_exit_code_1_of_its_check(
    installation: Installation,
):
    installation.folder.mkdir()
    (installation.folder / "store.db").write_bytes(b"no database" * 1_000)

    code, _, errors = await installation.does("store", "check")

    assert code == 1
    assert "the store is damaged" in errors.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["check"], ["backup", "one.db"]], ids=" ".join)
async def test_without_a_store_none_is_made(installation: Installation, arguments: list[str]):
    code, _, errors = await installation.does("store", *arguments)

    assert code == 2
    assert "there is no store.db" in errors.splitlines()[-1]
    assert not installation.folder.exists()


@pytest.mark.parametrize("arguments", [["check"], ["backup", "one.db"]], ids=" ".join)
async def test_with_mongodb_they_say_that_they_are_for_the_data_folder(
    installation: Installation, arguments: list[str]
):
    installation.more["MDM_MONGODB_URL"] = "mongodb://127.0.0.1:1/none"
    installation.more["MDM_SECRET_KEY"] = base64.b64encode(bytes(32)).decode()

    code, _, errors = await installation.does("store", *arguments)

    assert code == 2
    assert errors.splitlines()[-1].startswith("macromdm: MDM_MONGODB_URL: ")
