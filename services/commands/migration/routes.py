"""PUT /migration, as export tools for MicroMDM and NanoMDM call it.

Promises: a check-in message as a property list under any Content-Type, unsigned; 200 is success and
nothing else is; whoever may call it has the scope `admin`, and is audited.
"""

from fastapi import APIRouter, Request

from services.commands.devices import openapi
from services.commands.migration.service import Migrations
from shared.domain.access import Scope
from shared.times import rfc3339
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import Parsing
from shared.web.body import read_body


def migration_routes(migrations: Migrations, auth: ApiAuth, max_body: int) -> APIRouter:
    """`max_body`: of a message, in bytes."""
    routes = auth.router(tags=["migration"])
    parsing = Parsing()

    @routes.put(
        "/migration",
        dependencies=[auth.needs(Scope.ADMIN, audit="migration.import")],
        summary="Import a check-in message that a device sent to another server",
        responses=openapi.MIGRATION,
        openapi_extra=openapi.MIGRATION_BODY,
    )
    async def put_migration(request: Request) -> JsonAnswer:
        """Authenticate, TokenUpdate or SetBootstrapToken, of a device or a user channel. First the
        Authenticate of the device; the same message again changes nothing. The device is bound to
        the first certificate that it shows here before `migrating_until`: docs/migration.md."""
        message = await parsing.of(migrations.read, await read_body(request, max_body))
        describe(request, [message.key.id], message.kind.value)
        outcome = await migrations.take(message)
        until = rfc3339(message.until) if message.key.is_device_channel else None
        return JsonAnswer(
            {
                "outcome": outcome.value,
                "message_type": message.kind.value,
                "id": message.key.id,
                "migrating_until": until if outcome.value == "imported" else None,
            }
        )

    return routes
