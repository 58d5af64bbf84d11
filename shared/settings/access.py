"""Settings of who may call the API, and where a request comes from (docs/api-access.md)."""

from datetime import timedelta

from pydantic import BaseModel, Field, SecretStr

from shared.settings.values import ApiKey, Duration, Networks


class ProxySettings(BaseModel):
    trusted_proxies: Networks = Field(
        (),
        description="Addresses and networks of proxies, separated by commas; their X-Forwarded-For "
        "says where a request comes from. With MDM_CLIENT_CERT_HEADER no network may be wider than /28 "
        "(IPv6: /124).",
    )


class AccessSettings(ProxySettings):
    api_key: ApiKey | None = Field(
        None,
        description="Password of the API (user `micromdm`); several keys separated by spaces are "
        "all good, for rotation. `all` makes one on its first start.",
        json_schema_extra={"fallback": "MICROMDM_API_KEY"},
    )
    audit_retention: Duration = Field(
        timedelta(days=400), description="How long entries of the audit log are kept."
    )

    @property
    def api_keys(self) -> tuple[SecretStr, ...]:
        """Every key that is good; none only before `all` made one."""
        if self.api_key is None:
            return ()
        return tuple(SecretStr(key) for key in self.api_key.get_secret_value().split())
