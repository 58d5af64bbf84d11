"""Settings of our SCEP server, and of the challenges that it takes."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from shared.settings.values import Duration

LONGEST_VALIDITY = timedelta(days=3650)
"""As long as our CA itself is valid."""
LONGEST_CHALLENGE = 255


def _challenge(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text != text.strip() or not 1 <= len(text) <= LONGEST_CHALLENGE or not text.isprintable():
        raise ValueError(f"must be 1 to {LONGEST_CHALLENGE} printable characters")
    return value


def _validity(value: timedelta) -> timedelta:
    if not timedelta(hours=1) <= value <= LONGEST_VALIDITY:
        raise ValueError("must be 1 h to 3650 d")
    return value


def _lifetime(value: timedelta) -> timedelta:
    if not timedelta(minutes=1) <= value <= LONGEST_VALIDITY:
        raise ValueError("must be 1 min to 3650 d")
    return value


class ChallengeSettings(BaseModel):
    """What those know who make challenges."""

    scep_challenge: Annotated[SecretStr, AfterValidator(_challenge)] | None = Field(
        None,
        description="A static SCEP challenge: good for everybody who knows it, as often as they like; "
        "enrollment profiles that are for no particular device carry it. Without it each profile "
        "gets a challenge of its own, for one certificate. There is no enrollment without a challenge.",
    )
    scep_challenge_validity: Annotated[Duration, AfterValidator(_lifetime)] = Field(
        timedelta(hours=1), description="How long a one-time SCEP challenge is good."
    )


class ScepSettings(ChallengeSettings):
    """What our SCEP server knows."""

    scep_validity: Annotated[Duration, AfterValidator(_validity)] = Field(
        timedelta(days=365), description="How long the certificates of devices are valid."
    )
    scep_legacy: bool = Field(
        True,
        description="`false`: SCEP requests in DES, 3DES or SHA-1 are refused, and new ones that are not "
        "signed with the key that they ask for. Many SCEP clients send them whatever a server says.",
    )
