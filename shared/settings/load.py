"""Reads settings from the environment, once, and says in one line what is wrong with them.

A setting is looked for under its own name (MDM_API_KEY), for secrets in a mounted file
(MDM_API_KEY_FILE), and under MicroMDM's name where it has one (MICROMDM_API_KEY), in this order.
Empty variables count as not set, except the API key: an empty key is a mistake that must show.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from shared.domain.errors import Misconfigured
from shared.nearest import nearest
from shared.settings.classes import (
    AllSettings,
    ApiSettings,
    CheckinSettings,
    CommandsSettings,
    PushSettings,
    ServiceSettings,
    WebhookSettings,
)
from shared.settings.expected import message
from shared.settings.limits import LARGEST_BODY
from shared.settings.values import SHORT_KEY, parse_size, read_file

Settings = TypeVar("Settings", bound=ServiceSettings)

SERVICES: tuple[type[ServiceSettings], ...] = (
    AllSettings,
    CheckinSettings,
    CommandsSettings,
    PushSettings,
    WebhookSettings,
)

_TEST_PREFIX = "MDM_TEST_"


def load(cls: type[Settings], environ: Mapping[str, str]) -> Settings:
    """The settings of a service; raises Misconfigured with one line that names the variable."""
    values: dict[str, str] = {}
    names: dict[str, str] = {}
    for field, declared in cls.model_fields.items():
        found = _look_up(field, declared, environ)
        if found is not None:
            names[field], values[field] = found
    try:
        return cls(**values)  # type: ignore[arg-type]  # text, which the validators turn into values
    except ValidationError as exc:
        raise Misconfigured(_one_line(exc, names)) from None


def warnings_about(settings: ServiceSettings, environ: Mapping[str, str]) -> list[str]:
    """Warnings: usable settings that are probably not meant."""
    found = list(_unknown(environ))
    if isinstance(settings, ApiSettings) and any(
        len(key.get_secret_value()) < SHORT_KEY for key in settings.api_keys
    ):
        found.append(f"MDM_API_KEY: a key has fewer than {SHORT_KEY} characters")
    if not settings.secret_keys[1]:
        found.append("MDM_SECRET_KEY: begins with `clear`, so secrets are stored in clear")
    if settings.public_url.startswith("http://"):
        found.append("MDM_SERVER_URL: is plain http; devices demand https")
    written = _look_up("max_body", ServiceSettings.model_fields["max_body"], environ)
    if written is not None and parse_size(written[1]) > LARGEST_BODY:
        found.append(
            "MDM_MAX_BODY: is above 11 MiB and counts as 11 MiB, so that an event fits into a message of "
            "RabbitMQ and a document of MongoDB"
        )
    return found


def variable(field: str) -> str:
    return f"MDM_{field.upper()}"


def fallback(declared: FieldInfo) -> str | None:
    """MicroMDM's name of a setting."""
    extra = declared.json_schema_extra
    name = extra.get("fallback") if isinstance(extra, dict) else None
    return name if isinstance(name, str) else None


def is_secret(declared: FieldInfo) -> bool:
    return "SecretStr" in str(declared.annotation)


def name_in_use(field: str, cls: type[ServiceSettings], environ: Mapping[str, str]) -> str:
    """The variable that gives a setting; ours where none does."""
    found = _look_up(field, cls.model_fields[field], environ)
    return variable(field) if found is None else found[0]


def _look_up(field: str, declared: FieldInfo, environ: Mapping[str, str]) -> tuple[str, str] | None:
    name = variable(field)
    file_name = f"{name}_FILE"
    in_file = environ.get(file_name, "") if is_secret(declared) else ""
    if in_file and environ.get(name):
        raise Misconfigured(f"{file_name}: is set beside {name}; unset one of the two")
    if in_file:
        return file_name, _content(file_name, in_file)
    for each in filter(None, (name, fallback(declared))):
        if each in environ and (environ[each].strip() or field == "api_key"):
            return each, environ[each]
    return None


def _content(name: str, path: str) -> str:
    try:
        return read_file(name, Path(path)).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Misconfigured(f"{name}: {path} is no text in UTF-8") from None


def _one_line(error: ValidationError, names: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    said = message(first)
    if not first["loc"]:
        return said
    field = str(first["loc"][0])
    return " ".join(f"{names.get(field, variable(field))}: {said}".split())


_KNOWN = frozenset(
    variable(field) + end
    for cls in SERVICES
    for field, declared in cls.model_fields.items()
    for end in (("", "_FILE") if is_secret(declared) else ("",))
)


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environ):
        if name.startswith("MDM_") and not name.startswith(_TEST_PREFIX) and name not in _KNOWN:
            near = nearest(name, _KNOWN)
            hint = f"; did you mean {near}?" if near else ""
            yield f"{name}: no service has this setting{hint}"
