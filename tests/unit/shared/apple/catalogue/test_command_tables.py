"""The tables of docs/commands.md are those of the catalogue."""

import subprocess
import sys
from pathlib import Path

from tests.support.command_requests import CATALOGUE

ROOT = Path(__file__).parents[5]


def test_the_page_is_current_and_has_every_command() -> None:
    script = ROOT / "deploy" / "local" / "command_tables.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for request_type in tuple(CATALOGUE.forms):
        assert f"\n### {request_type}\n" in page
