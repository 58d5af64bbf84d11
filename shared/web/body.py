"""Read a request's body up to a limit, whether its length is declared or it comes in chunks.

The deadline for its bytes is the connection's: see `shared.web.server.protocol`.
"""

from fastapi import Request
from starlette.requests import ClientDisconnect

from shared.domain.errors import Overtaken, TooLarge
from shared.web.framing import declared_length

JSON_LIMIT = 1024**2
"""Most bytes of a request in JSON that holds no command, profile or message."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. TooLarge: it is over the limit; Overtaken: the client went away, or was too slow."""
    length = declared_length(request.scope["headers"])
    if length is not None and length > limit:
        raise TooLarge(f"the body is over {limit} bytes")
    parts: list[bytes] = []
    received = 0
    while (message := await request.receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        received += len(parts[-1])
        if received > limit:
            raise TooLarge(f"the body is over {limit} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)
    raise Overtaken(
        "the client went away, or was too slow, before its body ended"
    ) from ClientDisconnect()


async def until_gone(request: Request) -> None:
    """Returns when the client has closed its connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
