"""The settings of each service: one frozen class each, made of common parts.

`AllSettings` is every service's settings at once and demands none of them: what is missing there
is embedded (store, broker) or made on the first start (API key). `shared.settings.load` reads the
environment; the constructors themselves do not.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from shared.network.address_guard import AddressGuard
from shared.settings.access import AccessSettings, ProxySettings
from shared.settings.encryption import NEEDS_SECRET_KEY, EncryptionSettings
from shared.settings.enrollment import EnrollmentSettings, PushCertificateFiles
from shared.settings.limits import BodySettings, LimitSettings
from shared.settings.scep import BindingSettings, ChallengeSettings, ScepSettings
from shared.settings.values import (
    Address,
    AddressValue,
    AmqpUrl,
    Duration,
    File,
    HeaderName,
    HttpUrl,
    MongodbUrl,
    Names,
    Size,
    format_duration,
    must_be_file,
    within,
)
from shared.settings.webhook import DeliverySettings
from shared.telemetry.logs import LogFormat

MARGIN = timedelta(days=3)
"""The least time that MDM_EVENT_RETENTION leaves beyond the last retry."""

WIDEST = {4: 28, 6: 124}
"""Sixteen addresses, by version of IP: a wider range also holds addresses of other machines."""

MongoDriver = Literal["motor", "pymongo"]


def _http(port: int) -> Any:
    return Field(
        Address("127.0.0.1", port),
        description="Where to listen: `host:port`, or `:port` for every interface.",
        json_schema_extra={"fallback": "MICROMDM_HTTP_ADDR"},
    )


def _ops_http(port: int) -> Any:
    return Field(
        Address("127.0.0.1", port),
        description="Where /healthz, /readyz and /metrics listen; not for the public.",
    )


class ServiceSettings(BodySettings, EncryptionSettings):
    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, extra="forbid", arbitrary_types_allowed=True
    )

    service: ClassVar[str]
    required: ClassVar[frozenset[str]] = frozenset({"mongodb_url", "amqp_url"})

    http: AddressValue = _http(8080)
    ops_http: AddressValue = _ops_http(9080)
    server_url: HttpUrl | None = Field(
        None,
        description="The URL under which devices reach the server; default `http://` (with "
        "MDM_TLS_CERT `https://`) and MDM_HTTP. Plain http gives a warning.",
        json_schema_extra={"fallback": "MICROMDM_SERVER_URL"},
    )
    tls_cert: File | None = Field(
        None, description="PEM file: certificate chain with which to serve TLS."
    )
    tls_key: File | None = Field(None, description="PEM file: key of MDM_TLS_CERT.")
    mongodb_url: MongodbUrl | None = Field(
        None,
        description="URL of MongoDB 5.0 or newer. `all` starts the embedded store without it; "
        "the single services need it.",
    )
    amqp_url: AmqpUrl | None = Field(
        None,
        description="URL of RabbitMQ 3.10 or newer. `all` uses its in-process broker without it; "
        "the single services need it.",
    )
    amqp_max_message: Size = Field(
        15 * 1024**2,
        description="Largest message for RabbitMQ, as `15 MiB`; below its `max_message_size` (16 MiB in "
        "RabbitMQ 4). Of a larger event, subscribers' bodies are read from the journal.",
    )
    mongo_driver: MongoDriver = Field("motor", description="`motor` or `pymongo`.")
    data_dir: Path = Field(
        Path("data"),
        description="Folder of the embedded store and of the keys that `all` makes.",
    )
    event_retention: Duration = Field(
        timedelta(days=30),
        description="How long events stay in the journal; at least the retry schedule plus 3 d, "
        "and at least MDM_COMMAND_RETENTION.",
    )
    command_retention: Duration = Field(
        timedelta(days=30), description="How long finished commands stay visible."
    )
    log_format: LogFormat = Field(
        "auto", description="`json`, `console`, or `auto`: readable on a terminal, else JSON lines."
    )

    @property
    def public_url(self) -> str:
        """The URL under which devices reach the server, without a closing slash."""
        scheme = "https" if self.tls_cert else "http"
        return self.server_url or f"{scheme}://{self.http.reachable}"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in sorted(self.required):
            if getattr(self, name) is None:
                raise ValueError(f"MDM_{name.upper()}: is not set, and `{self.service}` needs it")
        if self.mongodb_url is not None and self.secret_key is None:
            raise ValueError(NEEDS_SECRET_KEY)
        return self

    @model_validator(mode="after")
    def _tls_is_a_pair_of_files(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "MDM_TLS_KEY" if self.tls_key is None else "MDM_TLS_CERT"
            raise ValueError(f"{missing}: is not set; MDM_TLS_CERT and MDM_TLS_KEY go together")
        return self

    @model_validator(mode="after")
    def _events_outlive_commands(self) -> Self:
        if self.event_retention < self.command_retention:
            raise ValueError(
                "MDM_EVENT_RETENTION: must not be below MDM_COMMAND_RETENTION "
                f"({format_duration(self.command_retention)})"
            )
        return self


class ApiSettings(AccessSettings, ServiceSettings):
    """Settings of the services with an API for clients."""

    required: ClassVar[frozenset[str]] = ServiceSettings.required | {"api_key"}


class CheckinSettings(
    BindingSettings, EnrollmentSettings, ScepSettings, ProxySettings, ServiceSettings
):
    service: ClassVar[str] = "checkin"

    http: AddressValue = _http(8081)
    ops_http: AddressValue = _ops_http(9081)
    device_ca: File | None = Field(
        None,
        description="PEM file: CAs whose certificates are device identities, beside our own CA.",
    )
    client_cert_header: HeaderName | None = Field(
        None,
        description="Header in which a proxy hands on the client certificate (RFC 9440, or "
        "URL-escaped PEM, with or without its issuers behind it); taken from MDM_TRUSTED_PROXIES only.",
    )

    silent_after: Annotated[
        Duration, within(timedelta(minutes=1), timedelta(days=365), "must be 1 min to 365 d")
    ] = Field(
        timedelta(days=7),
        description="How long a device makes no contact, while a command waits for it, before an event "
        "`macromdm.DeviceSilent` reports that (docs/enrollment.md).",
    )

    @model_validator(mode="after")
    def _devices_can_be_known(self) -> Self:
        if self.client_cert_header and not self.trusted_proxies:
            raise ValueError("MDM_TRUSTED_PROXIES: is not set, and MDM_CLIENT_CERT_HEADER needs it")
        for network in self.trusted_proxies if self.client_cert_header else ():
            widest = WIDEST[network.version]
            if network.prefixlen < widest:
                raise ValueError(
                    f"MDM_TRUSTED_PROXIES: {network} is wider than /{widest}, and with "
                    "MDM_CLIENT_CERT_HEADER each address in it may speak for any device; list the "
                    "addresses of your proxies"
                )
        return self


class CommandsSettings(LimitSettings, ChallengeSettings, ApiSettings):
    service: ClassVar[str] = "commands"

    http: AddressValue = _http(8082)
    ops_http: AddressValue = _ops_http(9082)
    retry_window: Duration = Field(
        timedelta(hours=1),
        description="How long after its acceptance a command that the device answered is still "
        "taken for a safe retry.",
    )
    accept_unknown_devices: bool = Field(
        False, description="`true`: commands for unknown devices are queued, not refused with 404."
    )


class PushSettings(ApiSettings):
    service: ClassVar[str] = "push"

    http: AddressValue = _http(8083)
    ops_http: AddressValue = _ops_http(9083)
    apns_url: HttpUrl = Field("https://api.push.apple.com", description="Where APNs is.")
    apns_ca: File | None = Field(
        None, description="PEM file: CAs to trust for MDM_APNS_URL instead of the system's."
    )
    push_cert: PushCertificateFiles = ()
    push_key: Names = Field(
        (), description="PEM files of their keys, in the same order as MDM_PUSH_CERT."
    )

    @property
    def push_pairs(self) -> tuple[tuple[Path, Path], ...]:
        """Certificate and key of each topic."""
        pairs = zip(self.push_cert, self.push_key, strict=True)
        return tuple((Path(cert), Path(key)) for cert, key in pairs)

    @field_validator("push_cert", "push_key")
    @classmethod
    def _push_certificates_are_files(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            must_be_file(Path(name))
        return names

    @model_validator(mode="after")
    def _push_certificates_are_pairs(self) -> Self:
        if len(self.push_cert) != len(self.push_key):
            raise ValueError("MDM_PUSH_KEY: must name one key for each file of MDM_PUSH_CERT")
        return self


class WebhookSettings(DeliverySettings, ApiSettings):
    service: ClassVar[str] = "webhook"

    http: AddressValue = _http(8084)
    ops_http: AddressValue = _ops_http(9084)

    @property
    def address_guard(self) -> AddressGuard:
        """Where the receivers of subscriptions made by API may be. The embedded store serves one machine,
        whose receivers may be on it."""
        return AddressGuard(self.webhook_allowed_networks, self.mongodb_url is None)

    @property
    def longest_schedule(self) -> timedelta:
        """The most that the waits of a retry schedule may be together."""
        return self.event_retention - MARGIN

    @model_validator(mode="after")
    def _events_outlive_their_retries(self) -> Self:
        least = sum(self.webhook_retry_schedule, MARGIN)
        if self.event_retention < least:
            raise ValueError(
                "MDM_EVENT_RETENTION: must not be below the retry schedule plus 3 d "
                f"({format_duration(least)})"
            )
        return self


class AllSettings(CheckinSettings, CommandsSettings, PushSettings, WebhookSettings):
    service: ClassVar[str] = "all"
    required: ClassVar[frozenset[str]] = frozenset()

    http: AddressValue = _http(8080)
    ops_http: AddressValue = _ops_http(9080)
