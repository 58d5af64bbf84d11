"""The machine and the versions that figures belong to."""

import os
import platform
import re
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def described() -> str:
    """CPU model, cores, versions and commit, in one line."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    names = ("uvicorn", "uvloop", "httptools", "fastapi")
    return ", ".join(
        [
            found[1] if found else platform.machine(),
            f"{os.cpu_count()} cores",
            f"Linux {platform.release()}",
            f"Python {platform.python_version()}",
            f"SQLite {sqlite3.sqlite_version}",
            *(f"{name} {version(name)}" for name in names),
            f"commit {commit()}",
        ]
    )


def commit() -> str:
    """The commit of this checkout, and whether its code has changed since."""
    short = _git("rev-parse", "--short", "HEAD")
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", "services", "shared", "tests"
    )
    return f"{short or 'unknown'}{' with changes' if changed else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
