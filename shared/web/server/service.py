"""The parts of a service for the runner: its routes, its work in the background, and how it ends.

Each `services.<name>.app.build` returns one; `shared.web.server.server` runs one, or four on one port.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from fastapi import APIRouter

from shared.concurrency.periodic import Loops, is_cancelled
from shared.web.device_route import NoteRefused
from shared.web.direct import DirectApp, direct_routes

Worker = Callable[[Loops], Coroutine[Any, Any, None]]
"""Work in the background: runs until it is cancelled."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One subject of a service, wired: its routes, its workers, and what it does when the process ends.

    `release` ends requests that only wait. `drain` finishes what is under way.
    """

    routers: Sequence[APIRouter] = ()
    workers: Sequence[Worker] = ()
    release: Callable[[], None] | None = None
    drain: Callable[[], Awaitable[None]] | None = None
    openapi_tags: Sequence[Mapping[str, Any]] = ()


async def _forever_ready() -> list[str]:
    return []


async def _nothing_to_drain() -> None:
    return None


async def _keep(name: str, work: Coroutine[Any, Any, None], ending: asyncio.Event) -> None:
    try:
        await work
    except asyncio.CancelledError:
        if is_cancelled():
            raise
    if not ending.is_set():
        raise RuntimeError(f"a worker of {name} ended by itself")


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
    run: Callable[[], Coroutine[Any, Any, None]]
    ready: Callable[[], Awaitable[list[str]]] = _forever_ready
    drain: Callable[[], Awaitable[None]] = _nothing_to_drain
    release: Callable[[], None] = lambda: None
    max_body: int = 0
    """Largest body that its routes read, where that is more than MDM_MAX_BODY."""
    direct: Mapping[tuple[str, str], DirectApp] = field(default_factory=dict)
    """Routes of the router that the edge calls without FastAPI, by method and path."""
    note_refused: NoteRefused | None = None
    """Takes each request of a device that is refused."""
    openapi_tags: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, name: str, features: Sequence[Feature], loops: Loops, **rest: Any) -> "Service":
        """The sum of features. Their drains run one after the other, the last feature's first; `rest` are
        further fields of the service. A worker that ends by itself, before that, ends the process."""
        router = APIRouter()
        direct: dict[tuple[str, str], DirectApp] = {}
        for routes in chain.from_iterable(each.routers for each in features):
            router.include_router(routes)
            direct |= direct_routes(routes)
        workers = list(chain.from_iterable(each.workers for each in features))
        releases = [each.release for each in features if each.release is not None]
        drains = [each.drain for each in reversed(features) if each.drain is not None]
        ending = asyncio.Event()

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                for work in workers:
                    group.create_task(_keep(name, work(loops), ending))

        def release() -> None:
            ending.set()
            for each in releases:
                each()

        async def drain() -> None:
            ending.set()
            for each in drains:
                await each()

        tags = [tag for feature in features for tag in feature.openapi_tags]
        return cls(
            name,
            router,
            run,
            drain=drain,
            release=release,
            direct=direct,
            openapi_tags=tags,
            **rest,
        )
