"""`python -m services`: the table of commands."""

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
