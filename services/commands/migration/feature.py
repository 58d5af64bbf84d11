"""Wires migration."""

from services.commands.migration.routes import TAG, migration_routes
from services.commands.migration.service import Migrations
from services.runtime.adapters import Adapters
from shared.settings import CommandsSettings
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def migration_feature(settings: CommandsSettings, adapters: Adapters, auth: ApiAuth) -> Feature:
    migrations = Migrations(
        adapters.stores.migration, adapters.clock, adapters.ids, settings.migration_window
    )
    routes = migration_routes(migrations, auth, settings.max_body)
    return Feature(routers=(routes,), openapi_tags=(TAG,))
