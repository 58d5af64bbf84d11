"""PUT /migration: enrollments of another MDM server, taken over without touching their devices.

Promises: 200 means that the message's effect on the enrollment is stored, durably; the same message
again changes nothing. A device that enrolled here, or has shown its certificate, is not touched.
No event goes out, no command ends, no push is sent: the device has said nothing to us yet.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from shared.apple.messages.checkin import (
    Authenticate,
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
        if type(message) not in _IMPORTED:
            raise unfit("MessageType", f"one of {', '.join(ImportedKind)}")
        kind, fields_of = _IMPORTED[type(message)]
        return Imported(
            key=message.key,
            kind=kind,
            digest=hashlib.sha256(body).hexdigest(),
            at=now,
            until=to_milliseconds(now + self.window),
            generation=self.ids.new(),
            **fields_of(message),
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
            kind = message.kind.value
            log.info("enrollment_imported", enrollment=message.key.id, message_type=kind)
        return outcome


_IMPORTED: Mapping[type, tuple[ImportedKind, Callable[[Any], dict[str, Any]]]] = {
    Authenticate: (ImportedKind.AUTHENTICATE, lambda sent: {"inventory": sent.inventory}),
    TokenUpdate: (
        ImportedKind.TOKEN_UPDATE,
        lambda sent: {
            "push": PushTarget(sent.topic, sent.token, sent.push_magic),
            "unlock_token": sent.unlock_token,
        },
    ),
    SetBootstrapToken: (
        ImportedKind.SET_BOOTSTRAP_TOKEN,
        lambda sent: {"bootstrap_token": sent.bootstrap_token},
    ),
}
"""The messages that can be imported, and the fields of the record that each of them sets."""
