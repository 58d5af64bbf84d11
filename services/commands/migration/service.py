"""PUT /migration: enrollments of another MDM server, taken over without touching their devices.

Promises: 200 means that the message's effect on the enrollment is stored, durably; the same message
again changes nothing. A device that enrolled here, or has shown its certificate, is not touched.
No event goes out, no command ends, nobody is pushed: the device has said nothing to us yet.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from shared.apple.messages.checkin import (
    Authenticate,
    CheckinMessage,
    SetBootstrapToken,
    TokenUpdate,
    parse_checkin,
)
from shared.domain.enrollment import PushTarget
from shared.domain.errors import Conflict, NotFound, unfit
from shared.ports.clock import Clock, Ids
from shared.ports.devices import Imported, ImportedKind, ImportOutcome, Migration
from shared.times import to_milliseconds

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Migrations:
    """Imports messages one by one. `window` is how long a device may then show its certificate."""

    store: Migration
    clock: Clock
    ids: Ids
    window: timedelta

    def read(self, body: bytes) -> Imported:
        """The message in a body. Raises BadRequest."""
        now = self.clock.now()
        message = parse_checkin(body)
        kind, kept = _kept_of(message)
        return Imported(
            key=message.key,
            kind=kind,
            digest=hashlib.sha256(body).hexdigest(),
            at=now,
            until=to_milliseconds(now + self.window),
            generation=self.ids.new(),
            **kept,
        )

    async def take(self, message: Imported) -> ImportOutcome:
        """IMPORTED or UNCHANGED. Raises NotFound where the Authenticate of the device is missing,
        Conflict where the enrollment has spoken here for itself."""
        outcome = await self.store.take(message)
        device = message.key.device
        if outcome is ImportOutcome.UNKNOWN:
            raise NotFound(f"udid: the Authenticate of the device {device} must be imported first")
        if outcome is ImportOutcome.OWN:
            raise Conflict(
                f"udid: {message.key.id} has enrolled here; it is not imported over that"
            )
        if outcome is ImportOutcome.IMPORTED:
            log.info(
                "enrollment_imported", enrollment=message.key.id, message_type=message.kind.value
            )
        return outcome


def _of_token_update(message: TokenUpdate) -> dict[str, Any]:
    push = PushTarget(message.topic, message.token, message.push_magic)
    return {"push": push, "unlock_token": message.unlock_token}


_IMPORTED: Mapping[type, tuple[ImportedKind, Callable[[Any], dict[str, Any]]]] = {
    Authenticate: (ImportedKind.AUTHENTICATE, lambda message: {"inventory": message.inventory}),
    TokenUpdate: (ImportedKind.TOKEN_UPDATE, _of_token_update),
    SetBootstrapToken: (
        ImportedKind.SET_BOOTSTRAP_TOKEN,
        lambda message: {"bootstrap_token": message.bootstrap_token},
    ),
}
"""The messages that can be imported, and the fields of the record that each of them sets."""


def _kept_of(message: CheckinMessage) -> tuple[ImportedKind, dict[str, Any]]:
    if type(message) not in _IMPORTED:
        raise unfit("MessageType", f"one of {', '.join(ImportedKind)}")
    kind, fields_of = _IMPORTED[type(message)]
    return kind, fields_of(message)
