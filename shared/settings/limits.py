"""Settings of the command API: how large, how many, how long."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from shared.settings.values import Duration, Size

LARGEST_COMMAND = 15 * 1024**2
LONGEST_WAIT = timedelta(hours=1)
LONGEST_WINDOW = timedelta(days=3650)


def _whole_number(value: object) -> object:
    if isinstance(value, str) and not (value.strip().isascii() and value.strip().isdigit()):
        raise ValueError("must be a whole number")
    return value


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def _fits_into_the_store(size: int) -> int:
    if size > LARGEST_COMMAND:
        raise ValueError("must not be above 15 MiB: a document of MongoDB has 16 at most")
    return size


def _waitable(duration: timedelta) -> timedelta:
    if not timedelta() < duration <= LONGEST_WAIT:
        raise ValueError("must be above 0 s, and at most 1 h")
    return duration


def _window(duration: timedelta) -> timedelta:
    if not timedelta() < duration <= LONGEST_WINDOW:
        raise ValueError("must be above 0 s, and at most 3650 d")
    return duration


Count = Annotated[int, BeforeValidator(_whole_number), AfterValidator(_at_least_one)]


class LimitSettings(BaseModel):
    """Limits of the clients of the commands service."""

    max_command_size: Annotated[Size, AfterValidator(_fits_into_the_store)] = Field(
        8 * 1024**2,
        description="Largest command as a property list, in bytes or as `8 MiB`, at most 15 MiB; "
        "a request in JSON may be half as large again, since data in it is base64.",
    )
    max_open_commands: Count = Field(
        10_000,
        description="Most open commands of one device or user; each process may be wrong by 1 %.",
    )
    max_wait: Annotated[Duration, AfterValidator(_waitable)] = Field(
        timedelta(minutes=2),
        description="Longest time for which a client may ask with `?wait=`; a proxy in front must "
        "wait longer.",
    )
    max_waiting: Count = Field(
        100, description="Most calls of one API key or token that wait at once, in each process."
    )
    migration_window: Annotated[Duration, AfterValidator(_window)] = Field(
        timedelta(days=30),
        description="How long after its import by PUT /migration a device may show the certificate "
        "to which it is then bound (docs/migration.md).",
    )
