"""Every setting of every service; read once at start, checked, frozen.

`python -m shared.settings` writes the table in docs/settings.md.
"""

from shared.settings.access import ProxySettings
from shared.settings.classes import (
    AllSettings,
    ApiSettings,
    CheckinSettings,
    CommandsSettings,
    MongoDriver,
    PushSettings,
    ServiceSettings,
    WebhookSettings,
)
from shared.settings.load import SERVICES, load, warnings_about
from shared.settings.values import Address
from shared.settings.webhook import RETRY_SCHEDULE

__all__ = [
    "RETRY_SCHEDULE",
    "SERVICES",
    "Address",
    "AllSettings",
    "ApiSettings",
    "CheckinSettings",
    "CommandsSettings",
    "MongoDriver",
    "ProxySettings",
    "PushSettings",
    "ServiceSettings",
    "WebhookSettings",
    "load",
    "warnings_about",
]
