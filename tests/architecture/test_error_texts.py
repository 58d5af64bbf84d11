"""Errors, reasons and log lines are words: none of them is the name of a class of Python."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_BUGS = {
    "shared/concurrency/periodic.py",  # `loop_failed`: a stack goes with it
    "shared/apple/plist/write.py",
    "shared/storage/sqlite/query/values.py",
}
"""What only a developer sees."""


def test_no_text_names_the_class_of_an_exception() -> None:
    naming = {
        str(file.relative_to(ROOT))
        for folder in ("services", "shared")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"type\(\w+\)\.__name__|__class__\.__name__", file.read_text())
    }

    assert naming == OF_BUGS
