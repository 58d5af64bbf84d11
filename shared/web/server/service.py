"""What a service hands to the runner: its routes, its work in the background, and how it ends.

Each `services.<name>.app.build` returns one; `shared.web.server.server` runs one, or four on one port.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.types import ASGIApp

from shared.web.device_route import NoteRefused


async def _forever_ready() -> list[str]:
    return []


def _nobody_waits() -> None:
    return None


async def _nothing_to_drain() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Service:
    """One service, built and not yet started.

    `run` is the work in the background: it ends only when it is cancelled, and tolerates a store or
    a broker that is away (an exception that leaves it ends the process). `ready` gives the reasons
    why the service cannot do its work, none when it can; it answers at once, from what is known.
    `release` is called first of all when the process ends: requests that only wait end at once.
    `drain` is called once HTTP has taken its last request and before the adapters close: stop
    taking new work, finish what is under way.
    """

    name: str
    router: APIRouter
    run: Callable[[], Awaitable[None]]
    ready: Callable[[], Awaitable[list[str]]] = _forever_ready
    drain: Callable[[], Awaitable[None]] = _nothing_to_drain
    release: Callable[[], None] = _nobody_waits
    max_body: int = 0
    """Largest body that its routes read, where that is more than MDM_MAX_BODY."""
    direct: Mapping[tuple[str, str], ASGIApp] = field(default_factory=dict)
    """Routes of the router that the edge calls without FastAPI, by method and path."""
    note_refused: NoteRefused | None = None
    """Takes each request of a device that is refused."""
    openapi_tags: Sequence[Mapping[str, Any]] = ()
