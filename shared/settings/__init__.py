"""Every setting of every service; read once at start, checked, frozen.

`python -m shared.settings` writes the table in docs/settings.md.
"""

from shared.settings.access import ProxySettings
from shared.settings.classes import (
    RETRY_SCHEDULE,
    AllSettings,
    ApiSettings,
    CheckinSettings,
    CommandsSettings,
    LogFormat,
    MongoDriver,
    PushSettings,
    ServiceSettings,
    WebhookSettings,
)
from shared.settings.load import load, warnings_about
from shared.settings.values import Address

__all__ = [
    "RETRY_SCHEDULE",
    "Address",
    "AllSettings",
    "ApiSettings",
    "CheckinSettings",
    "CommandsSettings",
    "LogFormat",
    "MongoDriver",
    "ProxySettings",
    "PushSettings",
    "ServiceSettings",
    "WebhookSettings",
    "load",
    "warnings_about",
]
