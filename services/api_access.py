"""Puts together who may call the API: the same for every service that has one."""

from services.adapters import Adapters
from shared.settings.classes import ApiSettings
from shared.web.api_auth import ApiAuth


def api_auth(settings: ApiSettings, adapters: Adapters) -> ApiAuth:
    """What the routers of a service take as `auth`."""
    return ApiAuth(settings.api_keys)
