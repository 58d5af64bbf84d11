"""ClearPasscode without an unlock token: an administrator means the one that the device entrusted to us.

Promises: only for the scope `admin`, which may read the token as well; the token is in no answer to the
request, and the audit log says that it was used. A client of another scope gets the usual refusal.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.commands.queue.targets import Targets
from shared.apple.request.plist import PreparedCommand
from shared.domain.access import Caller, Scope
from shared.nearest import folded
from shared.ports.devices import Devices

REQUEST_TYPE = "ClearPasscode"
CLEAR_PASSCODE = REQUEST_TYPE.encode()
"""In the body of each request that may lack a token."""
AUDITED = f"{REQUEST_TYPE} with the stored unlock token"
_KEY, _IN_JSON = "UnlockToken", "unlock_token"


@dataclass(frozen=True, slots=True)
class StoredUnlockToken:
    devices: Devices
    targets: Targets

    async def completed(
        self, document: dict[str, object], caller: Caller
    ) -> dict[str, object] | None:
        """The request with the token of its device; None where nothing is missing. Raises Conflict where
        several devices have the name, CannotDecrypt."""
        name = _device_without_token(document)
        if name is None or not caller.may(Scope.ADMIN):
            return None
        target = await self.targets.one(name)
        if not target.is_known:
            return None
        token = (await self.devices.secrets(target.key.id)).unlock_token
        if token is None:
            return None
        encoded = base64.b64encode(token).decode()
        for key, value in document.items():
            if folded(key) == "command" and isinstance(value, dict):
                return {**document, key: {**value, _KEY: encoded}}
        return {**document, _IN_JSON: encoded}


def without_token(prepared: PreparedCommand) -> PreparedCommand:
    """The command with an answer that does not show the token."""
    shown = prepared.response["command"]
    if not isinstance(shown, dict):
        return prepared
    command = {name: value for name, value in shown.items() if folded(name) != folded(_KEY)}
    return replace(prepared, response={**prepared.response, "command": command})


def _device_without_token(document: Mapping[str, object]) -> str | None:
    keys = {folded(name): value for name, value in document.items() if value is not None}
    inner = keys.get("command")
    command = {folded(k): v for k, v in inner.items()} if isinstance(inner, dict) else keys
    if command.get("requesttype") != REQUEST_TYPE or command.get(folded(_KEY)) is not None:
        return None
    name = keys.get("udid")
    return name if isinstance(name, str) else None
