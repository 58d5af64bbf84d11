"""`Idempotency-Key`: a request that is repeated with the same key is the same command.

The key becomes the CommandUUID, so what makes a repeated `command_uuid` safe (docs/rules.md, rule 5)
makes the key safe, for as long and with nothing more to store: the same command again is answered as
the first time, another one for the same device is a conflict. Promises: two callers never share a
CommandUUID by their keys; one key names one CommandUUID over all replicas and versions. A
`command_uuid` in the request decides, whatever the key. For another device the same key is another
request, since each device has a queue of its own.

The header is that of draft-ietf-httpapi-idempotency-key-header, with any printable text as its value.
"""

import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import replace

from fastapi import Request

from shared.apple.request.plist import PreparedCommand
from shared.domain.errors import unfit

HEADER = "Idempotency-Key"
_NAMESPACE = uuid.UUID("5b0f6c3e-93d4-4c0e-8a7c-0d5e6a1f7b29").bytes
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")


def uuid_maker(request: Request, caller: str, new: Callable[[], str]) -> Callable[[], str]:
    """The maker of the CommandUUID of this request: its key, or `new` where it has none. Raises
    BadRequest for a key that cannot be one."""
    keys = request.headers.getlist(HEADER)
    if not keys:
        return new
    if len(keys) > 1 or not _PRINTABLE.fullmatch(keys[0]):
        expected = "once, 1 to 255 printable characters of ASCII"
        raise unfit(HEADER, expected)
    made = command_uuid(keys[0], caller)
    return lambda: made


def noted(prepared: PreparedCommand, request: Request, made: Callable[[], str]) -> PreparedCommand:
    """The command, which knows whether its CommandUUID was `made` of the request's key."""
    is_by_key = HEADER in request.headers and prepared.command.uuid == made()
    return replace(prepared, is_by_key=True) if is_by_key else prepared


def command_uuid(key: str, caller: str) -> str:
    """A UUID of version 8 (RFC 9562), made of a hash of caller and key."""
    parts = (part.encode() for part in (caller, key))
    named = b"".join(len(part).to_bytes(4) + part for part in parts)
    digest = bytearray(hashlib.sha256(_NAMESPACE + named).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))
