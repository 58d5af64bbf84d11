"""Settings of the webhook's receiver: where it is, and whom to trust there."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator

from shared.settings.values import SecretHttpUrl, must_be_files


class ReceiverSettings(BaseModel):
    """Where events go."""

    webhook_url: SecretHttpUrl | None = Field(
        None,
        description="Where events are posted.",
        json_schema_extra={"fallback": "MICROMDM_WEBHOOK_URL"},
    )
    webhook_ca: Path | None = Field(
        None,
        description="PEM file: CAs to trust for MDM_WEBHOOK_URL instead of the system's; OpenSSL's "
        "`SSL_CERT_FILE` works too.",
    )

    @model_validator(mode="after")
    def _ca_is_a_file(self) -> Self:
        must_be_files("MDM_WEBHOOK_CA", self.webhook_ca)
        return self
