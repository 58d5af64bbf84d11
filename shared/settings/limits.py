"""Settings of limits: of the bodies of requests, and of the command API."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from shared.settings.values import Duration, Size, within

LARGEST_BODY = 11 * 1024**2
"""What MDM_MAX_BODY counts as at most: as JSON in base64 the event has 14.7 MiB then, which fits into a
message of RabbitMQ 4 and a document of MongoDB. Each has 16 MiB at most."""
LEAST_BUDGET = 24 * 1024**2
"""Room for the largest request: a command of 15 MiB, in JSON."""


class BodySettings(BaseModel):
    max_body: Annotated[Size, AfterValidator(lambda size: min(size, LARGEST_BODY))] = Field(
        10 * 1024**2,
        description="Largest message of a device, in bytes or as `10 MiB`; more than 11 MiB counts as "
        "11 MiB, with a warning. For commands of API clients see MDM_MAX_COMMAND_SIZE.",
    )
    body_budget: Annotated[
        Size, within(LEAST_BUDGET, None, "must not be below 24 MiB: one request may have as many")
    ] = Field(
        128 * 1024**2,
        description="Most bytes of request bodies that one process holds at once, as `128 MiB`, at "
        "least 24 MiB; beyond it, bodies of the address with the largest share are refused with 503.",
    )


LARGEST_COMMAND = 15 * 1024**2
MOMENT = timedelta(microseconds=1)


def _whole_number(value: object) -> object:
    if isinstance(value, str) and not (value.strip().isascii() and value.strip().isdigit()):
        raise ValueError("must be a whole number")
    return value


Count = Annotated[int, BeforeValidator(_whole_number), within(1, None, "must be 1 or more")]


class LimitSettings(BaseModel):
    max_command_size: Annotated[
        Size,
        within(
            None, LARGEST_COMMAND, "must not be above 15 MiB: a document of MongoDB has 16 at most"
        ),
    ] = Field(
        8 * 1024**2,
        description="Largest command as a property list, in bytes or as `8 MiB`, at most 15 MiB; "
        "a request in JSON may be half as large again, since data in it is base64.",
    )
    max_open_commands: Count = Field(
        10_000,
        description="Most open commands of one device or user; each process may be wrong by 1 %.",
    )
    max_wait: Annotated[
        Duration, within(MOMENT, timedelta(hours=1), "must be above 0 s, and at most 1 h")
    ] = Field(
        timedelta(minutes=2),
        description="Longest time for which a client may ask with `?wait=`; a proxy in front must "
        "wait longer.",
    )
    max_waiting: Count = Field(
        100, description="Most calls of one API key or token that wait at once, in each process."
    )
    migration_window: Annotated[
        Duration, within(MOMENT, timedelta(days=3650), "must be above 0 s, and at most 3650 d")
    ] = Field(
        timedelta(days=30),
        description="How long after its import by PUT /migration a device may show the certificate "
        "to which it is then bound (docs/migration.md).",
    )
