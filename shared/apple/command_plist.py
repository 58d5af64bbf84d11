"""Commands as devices get them; and the raw ones that API clients send.

A raw property list is delivered byte for byte: it is read to learn its CommandUUID and RequestType,
never rewritten, and what Apple publishes tomorrow passes. A command made from JSON is written once,
and its hash names it from then on.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shared.apple.command_reading import Reading, inside, read_id
from shared.apple.plist import parse
from shared.apple.plist_writer import write
from shared.domain.command import Command


@dataclass(frozen=True, slots=True)
class PreparedCommand:
    """A command that may be queued.

    `target` is whom the client named: a UDID, an EnrollmentID or a UserID. `response` is MicroMDM's
    `payload` object of the answer.
    """

    target: str
    command: Command
    response: dict[str, object]


def written(uuid: str, request_type: str, keys: Mapping[str, object]) -> Command:
    """The command of these keys as a property list."""
    plist = write({"Command": {"RequestType": request_type, **keys}, "CommandUUID": uuid})
    return _command(uuid, request_type, plist)


def prepare_raw(target: str, plist: bytes) -> PreparedCommand:
    """A command that a client made; BadRequest when it does not say which, or what it wants."""
    document = parse(plist)
    reading = Reading()
    read_id(target, "udid", reading)
    uuid = read_id(document.get("CommandUUID"), "CommandUUID", reading)
    body = document.get("Command")
    request_type = ""
    if isinstance(body, dict):
        path = inside("Command", "RequestType")
        request_type = read_id(body.get("RequestType"), path, reading)
    else:
        reading.fault("Command", "a dictionary with a RequestType")
    reading.raise_faults()
    response: dict[str, object] = {
        "udid": target,
        "command_uuid": uuid,
        "command": {"request_type": request_type},
        "payload": base64.b64encode(plist).decode(),
    }
    return PreparedCommand(target, _command(uuid, request_type, plist), response)


def _command(uuid: str, request_type: str, plist: bytes) -> Command:
    return Command(hashlib.sha256(plist).hexdigest(), uuid, request_type, plist)
