"""`python -m shared.settings [--check] [FILE]`: write docs/settings.md, or say whether it is current."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from shared.settings.classes import AllSettings, ServiceSettings
from shared.settings.load import SERVICES, fallback, is_secret, variable
from shared.settings.values import format_duration

DEFAULT = Path("docs/settings.md")
HEAD = """# Settings

Written by `python -m shared.settings`; do not edit. Settings come from the environment and are read
once, at the start. A secret can be in a file instead: `MDM_API_KEY_FILE` names one that holds
`MDM_API_KEY`, and likewise for every setting marked *secret*. Durations are written `30 s`, `5 min`,
`1 h`, `30 d`, or as plain seconds. `python -m services NAME --check-config` says whether a service
could start with its settings (exit code 0, else 2 and one line naming the setting). A variable
`MDM_...` that is not in this table gives a warning.

| Setting | Default | Read by | Meaning |
|---|---|---|---|
"""


def table() -> str:
    """The whole page."""
    page = HEAD
    for field, declared in AllSettings.model_fields.items():
        users = [cls for cls in SERVICES if field in cls.model_fields and cls is not AllSettings]
        by = "all" if len(users) == len(SERVICES) - 1 else ", ".join(each.service for each in users)
        secret = " *(secret)*" if is_secret(declared) else ""
        meaning = declared.description or ""
        if older := fallback(declared):
            meaning += f" `{older}` serves where it is not set."
        page += f"| `{variable(field)}`{secret} | {_default(field)} | {by} | {meaning} |\n"
    return page


def _default(field: str) -> str:
    values: dict[str, list[str]] = {}
    for cls in SERVICES:
        if field in cls.model_fields:
            values.setdefault(_shown(cls, field), []).append(cls.service)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())


def _shown(cls: type[ServiceSettings], field: str) -> str:
    value: Any = cls.model_fields[field].default
    if value is PydanticUndefined or value is None or value == ():
        return ""
    if isinstance(value, timedelta):
        return f"`{format_duration(value)}`"
    if isinstance(value, tuple):
        return f"`{', '.join(format_duration(each) for each in value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main(arguments: Sequence[str]) -> int:
    checks = "--check" in arguments
    paths = [Path(each) for each in arguments if not each.startswith("-")]
    path = paths[0] if paths else DEFAULT
    if not checks:
        path.write_text(table(), encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == table():
        return 0
    sys.stderr.write(f"{path} is not current: run `python -m shared.settings`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
