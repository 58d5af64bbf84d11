"""`python -m services`: the table of commands."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.__main__ import COMMANDS, main, parser


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"], {})

    assert ended.value.code == 0
    assert f"python -m services {name}" in capsys.readouterr().out


@pytest.mark.parametrize("line", [["checkin"], ["rotate-secrets"], ["store", "check"]])
def test_the_command_that_is_named_runs(line: list[str]) -> None:
    given = parser(line).parse_args(line)

    assert given.run.__module__ == f"services.cli.{COMMANDS[given.name].module}"


def test_an_unusable_setting_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkin", "--check-config"], {"MDM_HTTP": "x"}) == 2

    assert capsys.readouterr().err.startswith("macromdm: MDM_HTTP: must be host:port")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_ends_a_command_without_a_traceback(
    tmp_path: Path, unbuffered: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = ["identity", "--name", "device", "--out", str(tmp_path / "ids")]
    with open(writer, "wb") as pipe:
        ended = subprocess.run(
            [sys.executable, "-m", "services", *line],
            env={
                **os.environ,
                "MDM_DATA_DIR": str(tmp_path / "data"),
                "PYTHONUNBUFFERED": unbuffered,
            },
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ended.returncode == 1
    assert "BrokenPipe" not in ended.stderr


@pytest.mark.parametrize(
    "line", [["token", "list"], ["identity", "--name", "MAC", "--out", "folder"]], ids=" ".join
)
def test_a_command_that_takes_too_long_says_so(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    name = line[0]
    command = COMMANDS[name]
    assert command.deadline == timedelta(minutes=1)
    monkeypatch.setitem(COMMANDS, name, replace(command, deadline=timedelta(milliseconds=10)))
    monkeypatch.setattr(f"services.cli.{command.module}.run", hang)

    assert main(line, {}) == 1

    assert capsys.readouterr().err.startswith("macromdm: given up after 0 s")


def test_a_list_of_deliveries_may_take_as_long_as_there_are_many() -> None:
    """Each of its requests has a deadline."""
    assert COMMANDS["deliveries"].deadline is None
