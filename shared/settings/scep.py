"""Settings of device certificates: our SCEP server, its challenges, the binding to devices, renewal."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from shared.domain.identity import LOOK_BEFORE
from shared.settings.values import Duration, within

LONGEST_VALIDITY = timedelta(days=3650)
"""As long as our CA itself is valid."""
LONGEST_CHALLENGE = 255

Reenrollment = Literal["open", "bound"]


def _challenge(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text != text.strip() or not 1 <= len(text) <= LONGEST_CHALLENGE or not text.isprintable():
        raise ValueError(f"must be 1 to {LONGEST_CHALLENGE} printable characters")
    return value


class ChallengeSettings(BaseModel):
    scep_challenge: Annotated[SecretStr, AfterValidator(_challenge)] | None = Field(
        None,
        description="A static SCEP challenge: good for everybody who knows it, as often as they like; "
        "enrollment profiles that are for no particular device carry it. Without it each profile "
        "gets a challenge of its own, for one certificate. There is no enrollment without a challenge.",
    )
    scep_challenge_validity: Annotated[
        Duration, within(timedelta(minutes=1), LONGEST_VALIDITY, "must be 1 min to 3650 d")
    ] = Field(timedelta(hours=1), description="How long a one-time SCEP challenge is good.")


class ScepSettings(ChallengeSettings):
    scep_validity: Annotated[
        Duration, within(timedelta(hours=1), LONGEST_VALIDITY, "must be 1 h to 3650 d")
    ] = Field(timedelta(days=365), description="How long the certificates of devices are valid.")
    scep_legacy: bool = Field(
        True,
        description="`false`: SCEP requests in DES, 3DES or SHA-1 are refused, and new ones that are not "
        "signed with the key that they ask for. Many SCEP clients send them in any case.",
    )


class BindingSettings(BaseModel):
    reenrollment: Reenrollment = Field(
        "open",
        description="Who may enroll a device again that has a certificate already: `open`: every holder of "
        "one of a trusted CA, as after a wipe; `bound`: only a certificate of our SCEP whose challenge "
        "was made for that UDID or serial number.",
    )
    replay_guard: bool = Field(
        True,
        description="`false`: messages that change an enrollment are taken whenever they were signed. "
        "Else one that was signed over a day before the newest is refused, as a recording of it would be.",
    )
    renew_before: Annotated[
        Duration, within(timedelta(minutes=1), LOOK_BEFORE, "must be 1 min to 90 d")
    ] = Field(
        timedelta(days=30),
        description="How long before its end the certificate of a device is renewed, where our SCEP "
        "gave it out; at most 90 d, and not before half of its time is over.",
    )
