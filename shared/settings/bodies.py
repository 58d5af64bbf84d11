"""Settings of request bodies: how large one may be, and all of them together."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from shared.settings.values import Size

LARGEST_BODY = 11 * 1024**2
"""What MDM_MAX_BODY counts as at most: as JSON in base64 the event has 14.7 MiB then, which fits into a
message of RabbitMQ 4 and a document of MongoDB. Each has 16 MiB at most."""
LEAST_BUDGET = 24 * 1024**2
"""Room for the largest request: a command of 15 MiB, in JSON."""
LEAST_EVENTS = 8 * 1024**2
"""The least that MDM_WEBHOOK_BODY_BUDGET may be."""


def _fits_into_an_event(size: int) -> int:
    return min(size, LARGEST_BODY)


def _holds_any_body(size: int) -> int:
    if size < LEAST_BUDGET:
        raise ValueError("must not be below 24 MiB: one request may have as many")
    return size


def _holds_some_events(size: int) -> int:
    if size < LEAST_EVENTS:
        raise ValueError("must not be below 8 MiB: events would be delivered one by one")
    return size


EventBudget = Annotated[Size, AfterValidator(_holds_some_events)]


class BodySettings(BaseModel):
    """Limits of the bodies that clients and devices send."""

    max_body: Annotated[Size, AfterValidator(_fits_into_an_event)] = Field(
        10 * 1024**2,
        description="Largest message of a device, in bytes or as `10 MiB`; more than 11 MiB counts as "
        "11 MiB, with a warning. For commands of API clients see MDM_MAX_COMMAND_SIZE.",
    )
    body_budget: Annotated[Size, AfterValidator(_holds_any_body)] = Field(
        128 * 1024**2,
        description="Most bytes of request bodies that one process holds at once, as `128 MiB`, at "
        "least 24 MiB; beyond it, bodies of the address with the largest share hear 503.",
    )
