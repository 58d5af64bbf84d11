"""Wires profiles."""

from services.commands.profiles.routes import TAG, profile_routes
from services.runtime.adapters import Adapters
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def profiles_feature(adapters: Adapters, auth: ApiAuth) -> Feature:
    return Feature(routers=(profile_routes(adapters.stores.profiles, auth),), openapi_tags=(TAG,))
