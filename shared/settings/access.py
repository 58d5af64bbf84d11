"""Settings of who may call the API, and where a request comes from (docs/api-access.md)."""

from collections.abc import Sequence
from datetime import timedelta

from pydantic import BaseModel, Field, SecretStr

from shared.settings.values import ApiKey, Duration, Network, Networks

WIDEST = {4: 28, 6: 124}
"""Sixteen addresses, by version of IP: a wider range also holds addresses of other machines."""


def refuse_wide(proxies: Sequence[Network]) -> None:
    """Refuse a range of proxies that is too wide to be believed about who a device is."""
    for network in proxies:
        widest = WIDEST[network.version]
        if network.prefixlen < widest:
            raise ValueError(
                f"MDM_TRUSTED_PROXIES: {network} is wider than /{widest}, and with MDM_CLIENT_CERT_HEADER "
                "each address in it may speak for any device; list the addresses of your proxies"
            )


class ProxySettings(BaseModel):
    """Settings of the proxies before a service."""

    trusted_proxies: Networks = Field(
        (),
        description="Addresses and networks of proxies, separated by commas; their X-Forwarded-For "
        "says where a request comes from. With MDM_CLIENT_CERT_HEADER no network may be wider than /28 "
        "(IPv6: /124).",
    )


class AccessSettings(ProxySettings):
    """Settings of the callers of an API."""

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
