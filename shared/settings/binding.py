"""Settings of the binding between devices and certificates, and of its renewal."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from shared.domain.identity import LOOK_BEFORE
from shared.settings.values import Duration

Reenrollment = Literal["open", "bound"]


def _lead(value: timedelta) -> timedelta:
    if not timedelta(minutes=1) <= value <= LOOK_BEFORE:
        raise ValueError("must be 1 min to 90 d")
    return value


class BindingSettings(BaseModel):
    """What check-in knows."""

    reenrollment: Reenrollment = Field(
        "open",
        description="Who may enroll a device anew that has a certificate already: `open`: whoever has "
        "one of a trusted CA, as after a wipe; `bound`: only a certificate of our SCEP whose challenge "
        "was made for that UDID or serial number.",
    )
    replay_guard: bool = Field(
        True,
        description="`false`: messages that change an enrollment are taken whenever they were signed. "
        "Else one that was signed over a day before the newest is refused, as somebody recorded it.",
    )
    renew_before: Annotated[Duration, AfterValidator(_lead)] = Field(
        timedelta(days=30),
        description="How long before its end the certificate of a device is renewed, where our SCEP "
        "gave it out; at most 90 d, and not before half of its time is over.",
    )
