"""The sections of a request, and headers that leave no doubt where it ends.

Promise: a request that a proxy and we could read in two ways is refused: other versions than 1.0 and 1.1,
no Host or two, other transfer codings than one `chunked`, and a body behind a request to upgrade to another
protocol."""

from collections.abc import Iterable
from enum import Enum, auto
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]


class Section(Enum):
    BETWEEN = auto()
    HEADERS = auto()
    BODY = auto()


class FramingRefused(Exception):
    """Ends the parsing of a request whose ends, or whose proxies, could be disputed."""


class TooMuch(Exception):
    """Ends the parsing of what has more headers, or more requests in one go, than we take."""


def last_answer(status: int) -> bytes:
    """The answer that ends a connection, without a body."""
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    return f"{line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode("ascii")


def check_framing(version: str, headers: Headers, *, upgrades: bool) -> None:
    """Raises FramingRefused. `upgrades`: the client asks for another protocol."""
    if version not in ("1.0", "1.1"):
        raise FramingRefused(f"HTTP/{version}")
    hosts, codings = 0, []
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            codings.append(value.lower())
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise FramingRefused(f"{hosts} Host headers")
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise FramingRefused("a transfer coding that one of us may not know")
    if upgrades and has_body(headers):
        raise FramingRefused("the parser would take the body for another protocol")


def declared_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """The Content-Length, None where the body comes in chunks or there is none."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """True where a body follows the headers."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
