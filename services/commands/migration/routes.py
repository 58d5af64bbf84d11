"""PUT /migration, as export tools for MicroMDM and NanoMDM call it.

Promises: a check-in message as a property list under any Content-Type, unsigned; only 200 is success; a
caller needs the scope `admin`, and is audited.
"""

from typing import Annotated

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from services.commands.migration.service import Migrations
from shared.domain.access import Scope
from shared.ports.devices import ImportOutcome
from shared.times import rfc3339
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import UDID, Time, about, errors, like, ok, one_of
from shared.web.api.requests import Parsing
from shared.web.body import read_body

TAG = {"name": "migration", "description": "Take over the enrollments of another MDM server."}
_PLIST = (
    '<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    "<key>MessageType</key><string>Authenticate</string>"
    "<key>Topic</key><string>com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04</string>"
    f"<key>UDID</key><string>{UDID}</string></dict></plist>"
)
_BODY = {
    "required": True,
    "description": "The message as a property list, under any Content-Type; no signature.",
    "content": {"application/xml": {"schema": {"type": "string"}, "example": _PLIST}},
}


class MigrationOut(TypedDict):
    outcome: Annotated[str, one_of(("imported", "unchanged")), like("imported")]
    message_type: Annotated[str, like("Authenticate")]
    id: Annotated[str, about("Of the enrollment.", UDID)]
    migrating_until: Annotated[
        Time | None,
        about("Of a device that was imported; null of a user channel.", "2026-02-01T03:04:05Z"),
    ]


def migration_routes(migrations: Migrations, auth: ApiAuth, max_body: int) -> APIRouter:
    """`max_body`: of a message, in bytes."""
    routes = auth.router(tags=["migration"])
    parsing = Parsing()

    @routes.put(
        "/migration",
        dependencies=[auth.needs(Scope.ADMIN, audit="migration.import")],
        summary="Import a check-in message that a device sent to another server",
        responses=ok(MigrationOut, "It is stored durably, or was already.")
        | errors(400, 404, 409, 413),
        openapi_extra={"requestBody": _BODY},
    )
    async def put_migration(request: Request) -> JsonAnswer:
        """Authenticate, TokenUpdate or SetBootstrapToken, of a device or a user channel. First the
        Authenticate of the device; the same message again changes nothing. The device is bound to
        the first certificate that it shows here before `migrating_until`: docs/migration.md."""
        message = await parsing.of(migrations.read, await read_body(request, max_body))
        describe(request, [message.key.id], message.kind.value)
        outcome = await migrations.take(message)
        is_waiting = outcome is ImportOutcome.IMPORTED and message.key.is_device_channel
        content: MigrationOut = {
            "outcome": outcome.value,
            "message_type": message.kind.value,
            "id": message.key.id,
            "migrating_until": rfc3339(message.until) if is_waiting else None,
        }
        return JsonAnswer(content)

    return routes
