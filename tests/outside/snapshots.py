"""Files that hold what devices, clients, subscribers and operators see, compared to the byte.

Promise: a difference fails with the lines that differ. A change that is meant is written by
`MDM_TEST_SNAPSHOTS=write pytest tests/outside`, and reviewed as a part of the change; such a run fails, so
that no build writes its own snapshots.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "snapshots"
VARIABLE = "MDM_TEST_SNAPSHOTS"
MOST_LINES = 60

Mask = Callable[[re.Match[str]], str]

# Values that differ from run to run keep their form: digits become 0, letters x or X.
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?"
_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_HEX = r"\b(?:[0-9a-f]{24,}|[0-9A-F]{24,})\b"
_BASE64 = r"[A-Za-z0-9+/_-]{40,}={0,2}"
_PORT = r"127\.0\.0\.1:\d+"
_PYTHON = r"python\d+\.\d+\.\d+"
_PUSHES = r'"push(?:es)?":\{[^}]*\}'
"""Pushes go out beside the requests of the tour."""
_OURS = ("PD94bWw", "YnBsaXN0")
"""Base64 of our own property lists, whose bytes are the same in every run."""


def masked(text: str, known: Iterable[str] = ()) -> str:
    """The text, without what differs from run to run; `known` values stay."""
    stay = frozenset(known)

    def unless_known(mask: Mask) -> Mask:
        return lambda found: found[0] if found[0] in stay else mask(found)

    text = re.sub(_TIME, _time_form, text)
    text = re.sub(_UUID, unless_known(lambda found: _uuid_form(found[0])), text)
    text = re.sub(_HEX, unless_known(_hex_form), text)
    text = re.sub(_PORT, "127.0.0.1:PORT", text)
    text = re.sub(_PYTHON, "pythonX.Y.Z", text)
    text = re.sub(_PUSHES, lambda found: re.sub(r":[^,{}]+(?=[,}])", ":-", found[0]), text)
    return re.sub(_BASE64, unless_known(_base64_form), text)


def _time_form(found: re.Match[str]) -> str:
    """A time at a whole second has no fraction where others have microseconds: both are shown without."""
    form = re.sub(r"\d", "0", found[0])
    return form.removesuffix(".000000")


def _uuid_form(uuid: str) -> str:
    return re.sub(r"[0-9A-Fa-f]", "X" if uuid == uuid.upper() else "x", uuid)


def _hex_form(found: re.Match[str]) -> str:
    """Serial numbers are of no certain length."""
    return f"<{len(found[0])} hex digits>" if len(found[0]) in {32, 64} else "<hex digits>"


def _base64_form(found: re.Match[str]) -> str:
    is_text = found[0].startswith(_OURS) or not re.search(r"[0-9+/]", found[0])
    return found[0] if is_text else "<base64>"


def as_json(value: object) -> str:
    """One form for all snapshots that are no text."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def assert_same(name: str, text: str) -> None:
    """Compare with the snapshot of this name, or write it where that was asked for."""
    file = FOLDER / name
    if os.environ.get(VARIABLE) == "write":
        file.write_text(text, encoding="utf-8")
        pytest.fail(f"{name} was written; run again without {VARIABLE}", pytrace=False)
    frozen = file.read_text(encoding="utf-8")
    if text == frozen:
        return
    lines = difflib.unified_diff(
        frozen.splitlines(), text.splitlines(), "frozen", "now", lineterm="", n=2
    )
    shown = "\n".join(list(lines)[:MOST_LINES])
    pytest.fail(
        f"{name}: what others see has changed ({VARIABLE}=write if that is meant)\n{shown}",
        pytrace=False,
    )
