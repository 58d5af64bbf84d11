"""The table of all settings, made from the classes, for docs/settings.md."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared.settings.classes import AllSettings, ServiceSettings
from shared.settings.load import SERVICES, fallback, is_secret, variable
from shared.settings.values import format_duration

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
    return HEAD + "".join(_rows())


def _rows() -> Iterator[str]:
    for field, declared in AllSettings.model_fields.items():
        users = [cls for cls in SERVICES if field in cls.model_fields and cls is not AllSettings]
        by = "all" if len(users) == len(SERVICES) - 1 else ", ".join(each.service for each in users)
        yield f"| {_names(field, declared)} | {_default(field)} | {by} | {_meaning(declared)} |\n"


def _names(field: str, declared: FieldInfo) -> str:
    name = f"`{variable(field)}`"
    return f"{name} *(secret)*" if is_secret(declared) else name


def _meaning(declared: FieldInfo) -> str:
    older = fallback(declared)
    text = declared.description or ""
    return f"{text} `{older}` serves where it is not set." if older else text


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
