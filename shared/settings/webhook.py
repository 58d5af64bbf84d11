"""Settings of the webhook: its receiver, its topics, its retries."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from shared.domain.event import EXTRA_TOPICS
from shared.settings.values import Durations, File, Names, Networks, SecretHttpUrl, Size, within

RETRY_SCHEDULE = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 5, 30, 120, 600, 3600, 10_800, 21_600, 43_200, 86_400)
)


class DeliverySettings(BaseModel):
    webhook_url: SecretHttpUrl | None = Field(
        None,
        description="Where events are posted.",
        json_schema_extra={"fallback": "MICROMDM_WEBHOOK_URL"},
    )
    webhook_ca: File | None = Field(
        None,
        description="PEM file: CAs to trust for MDM_WEBHOOK_URL instead of the system's; OpenSSL's "
        "`SSL_CERT_FILE` works too.",
    )
    webhook_extra_topics: Names = Field(
        (),
        description="Topics beyond MicroMDM's to post to MDM_WEBHOOK_URL, separated by commas: "
        + ", ".join(f"`{topic}`" for topic in sorted(EXTRA_TOPICS))
        + ".",
    )
    webhook_retry_schedule: Durations = Field(
        RETRY_SCHEDULE,
        description="Waits between the attempts of a delivery; an event that is refused while others "
        "are taken holds up its device for the first five only.",
    )
    webhook_body_budget: Annotated[
        Size,
        within(8 * 1024**2, None, "must not be below 8 MiB: events would be delivered one by one"),
    ] = Field(
        128 * 1024**2,
        description="Most bytes of event bodies that one process holds at once, as `128 MiB`, at least "
        "8 MiB; the bodies of events beyond it are read back from the journal when their turn comes.",
    )
    webhook_allowed_networks: Networks = Field(
        (),
        description="Private networks in which a subscription made by API may have its receiver, separated "
        "by commas, such as `10.20.0.0/16`; MDM_WEBHOOK_URL may be anywhere.",
    )

    @field_validator("webhook_extra_topics")
    @classmethod
    def _topics_are_known(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        if not EXTRA_TOPICS.issuperset(topics):
            raise ValueError("must be a list of " + ", ".join(sorted(EXTRA_TOPICS)))
        return topics
