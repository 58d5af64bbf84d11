"""Writes what API clients do into the audit log, with next to no work for a single request.

Promises: an action that succeeded is in the log before its client is answered, else the client gets
503 (the action may have been done: it comes again, which every change of ours bears); an action
that was refused or failed is in the log where the log can be written; requests that end together
are recorded together.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import structlog
from fastapi import Request

from shared.concurrency.batching import BatchExecutor
from shared.domain.access import MOST_TARGETS, AuditEntry
from shared.domain.errors import StoreUnavailable
from shared.ports.access import AuditLog
from shared.ports.clock import Clock, Ids
from shared.times import to_milliseconds

log = structlog.get_logger()

BATCH_LIMIT = 64
MOST_TOGETHER = 4 * MOST_TARGETS
"""Targets of entries that are recorded together."""
LONGEST = 200
"""Characters of a text that a client chose."""


@dataclass(slots=True)
class AuditContext:
    """The action of a request, as its route describes it; `on_request` finds it."""

    caller: str
    action: str
    address: str
    targets: tuple[str, ...] = ()
    left_out: int = 0
    detail: str | None = None
    trail: "AuditTrail | None" = field(default=None, repr=False)


def describe(request: Request, targets: Iterable[str] = (), detail: str | None = None) -> None:
    """For a route: whom its action concerns, where no path parameter says it, and what it is about
    (a request type, a name; never a secret). Nothing, where the route is not audited."""
    context: AuditContext | None = getattr(request.state, "audit", None)
    if context is None:
        return
    given = list(targets)
    if given:
        context.targets = tuple(_shortened(target) for target in given[:MOST_TARGETS])
        context.left_out = max(0, len(given) - MOST_TARGETS)
    if detail is not None:
        context.detail = _shortened(detail)


class AuditTrail:
    """Makes entries of deeds and writes them in batches. `interactive`: held around each, since a client
    waits for it."""

    def __init__(
        self,
        audit_log: AuditLog,
        clock: Clock,
        ids: Ids,
        interactive: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._log = audit_log
        self._clock = clock
        self._ids = ids
        self._interactive = interactive
        self._batches: BatchExecutor[AuditEntry, None] = BatchExecutor(
            self._write, BATCH_LIMIT, in_flight=1
        )

    async def record(self, request: Request, context: AuditContext, status: int) -> None:
        """Raises StoreUnavailable when a success could not be recorded."""
        entry = self._entry(request, context, status)
        try:
            with self._interactive():
                await self._batches.submit(entry)
        except StoreUnavailable as exc:
            log.warning(
                "audit_not_recorded",
                caller=entry.caller,
                action=entry.action,
                targets=entry.targets[:10],
                status=status,
            )
            if status < 400:
                raise StoreUnavailable("done, but not recorded: repeat it") from exc

    async def _write(self, entries: list[AuditEntry]) -> list[Exception | None]:
        for together in _split(entries):
            await self._log.record(together)
        return [None] * len(entries)

    def _entry(self, request: Request, context: AuditContext, status: int) -> AuditEntry:
        parameters = tuple(_shortened(str(value)) for value in request.path_params.values())
        request_id = request.headers.get("x-request-id")
        return AuditEntry(
            id=self._ids.new(),
            at=to_milliseconds(self._clock.now()),
            caller=context.caller,
            address=context.address,
            route=f"{request.method} {request.scope['route'].path}",
            action=context.action,
            status=status,
            targets=context.targets or parameters,
            targets_left_out=context.left_out,
            detail=context.detail,
            request_id=_shortened(request_id) if request_id else None,
        )


def _split(entries: list[AuditEntry]) -> Iterator[list[AuditEntry]]:
    """Batches that fit into one document of the store, in order."""
    batch: list[AuditEntry] = []
    targets = 0
    for entry in entries:
        if batch and targets + len(entry.targets) > MOST_TOGETHER:
            yield batch
            batch, targets = [], 0
        batch.append(entry)
        targets += len(entry.targets)
    yield batch


def _shortened(text: str) -> str:
    # A lone surrogate is JSON, but no store takes it.
    return text[:LONGEST].encode(errors="replace").decode()
