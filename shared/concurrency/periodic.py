"""The one loop of all repeated background work.

Promises: no exception of a step ends a loop, except Misconfigured (an unusable setting, or a second process
on an in-process broker: rule 10), which ends the process. An outage is logged once when it begins. Any other
exception is a bug, or an unforeseen document: its kind and stack are logged once until a success, it is
counted, and the pauses grow. `failing` names the loops that have failed so for five minutes.

A step that hangs is a bug, since each of its awaits has a deadline, and a short one: an outage hangs nothing.
`failing` names its loop after five minutes in which the step did not go on, however long the step is;
`stalled` after half an hour, when only a restart can help. A step that waits `in_turn` does not hang.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from shared.domain.errors import CannotDecrypt, MdmError, Misconfigured, Unavailable
from shared.network.connection_failures import NO_ANSWER
from shared.ports.clock import Clock

log = structlog.get_logger()

Step = Callable[[], Awaitable[object]]

FAILING_AFTER = timedelta(minutes=5)
STALLED_AFTER = timedelta(minutes=30)
LONGEST_PAUSE = timedelta(minutes=1)
"""The longest pause between two tries of a step that fails by a bug."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pauses after a step that succeeded, and after one that failed."""

    every: timedelta
    after_failure: timedelta


ONCE = Pace(timedelta(), timedelta())


class Loops:
    """The background work of one process. `count` gets the name of a loop at each failure except outages."""

    stalled_after = STALLED_AFTER

    def __init__(self, clock: Clock, count: Callable[[str], None] = lambda name: None) -> None:
        self._clock = clock
        self._count = count
        self._running: set[_Loop] = set()

    async def keep_doing(
        self,
        name: str,
        step: Step,
        pace: Pace,
        waits: str,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Do a step and rest, until cancelled or `stopped`. `waits` is the log event of an outage's begin."""
        with self._loop(name, pace, waits) as loop:
            while not stopped():
                await loop.attempt(step)
                await self._clock.sleep(loop.pause)

    async def until_done(
        self, name: str, step: Step, pace: Pace, waits: str, *, may_wait: bool = False
    ) -> None:
        """Do a step again and again until it succeeds. `may_wait`: it may take any time, as it waits for
        messages or for an index."""
        with self._loop(name, pace, waits) as loop:
            while not await loop.attempt(step, may_wait=may_wait):
                await self._clock.sleep(loop.pause)

    async def attempt(self, name: str, step: Step, waits: str) -> None:
        """Do a step once. Its failure ends there."""
        try:
            await step()
        except Exception as exc:  # noqa: BLE001 - it ends here, and is logged
            _Loop(name, ONCE, waits, self._clock, self._count).failed(exc)

    def failing(self) -> list[str]:
        """The loops that have failed for FAILING_AFTER without a success, except by outages, and those whose
        step has not gone on for as long."""
        now = self._clock.monotonic()
        found = {
            loop.name: f"{loop.name} has failed for {(now - loop.failing_since) / 60:.0f} minutes, at "
            f"last with {loop.error}: look for loop_failed in the log, and report it"
            for loop in self._running
            if now - loop.failing_since >= FAILING_AFTER.total_seconds()
        }
        return sorted({**found, **self._hanging(FAILING_AFTER)}.values())

    def hanging(self) -> int:
        """How many loops' steps have not gone on for FAILING_AFTER."""
        return len(self._hanging(FAILING_AFTER))

    def stalled(self) -> list[str]:
        """The loops whose step has not gone on for STALLED_AFTER."""
        return sorted(self._hanging(self.stalled_after).values())

    def _hanging(self, since: timedelta) -> dict[str, str]:
        now = self._clock.monotonic()
        return {
            loop.name: f"{loop.name} has hung in a step for {(now - loop.went_on_at) / 60:.0f} minutes"
            for loop in self._running
            if now - loop.went_on_at >= since.total_seconds()
        }

    @contextmanager
    def _loop(self, name: str, pace: Pace, waits: str) -> Iterator["_Loop"]:
        loop = _Loop(name, pace, waits, self._clock, self._count)
        self._running.add(loop)
        try:
            yield loop
        finally:
            self._running.remove(loop)


@asynccontextmanager
async def in_turn(gate: asyncio.Semaphore) -> AsyncIterator[None]:
    """Hold a gate. For a step itself, not for tasks that it begins: others that go on may be before it for
    any time."""
    loop = _under_way.get()
    if loop is not None:
        loop.rests()
    async with gate:
        if loop is not None:
            loop.goes_on()
        yield


class _Loop:
    """One loop, and its failures since its last success."""

    def __init__(
        self, name: str, pace: Pace, waits: str, clock: Clock, count: Callable[[str], None]
    ) -> None:
        self.name = name
        self.error = ""
        self.failing_since = float("inf")
        self.went_on_at = float("inf")
        """When the step under way last went on."""
        self.pause = pace.every
        self._pace = pace
        self._waits = waits
        self._clock = clock
        self._count = count
        self._is_away = False
        self._said: set[str] = set()

    async def attempt(self, step: Step, *, may_wait: bool = False) -> bool:
        before = _under_way.set(None if may_wait else self)
        try:
            await (step() if may_wait else _Watched(step(), self.goes_on))
        except asyncio.CancelledError as exc:
            if is_cancelled():
                raise
            # What the step waited for was cancelled, and not the loop.
            self._failed_by_bug(exc)
            return False
        except Exception as exc:  # noqa: BLE001 - the loop goes on, and logs the error
            self.failed(exc)
            return False
        finally:
            self.rests()
            _under_way.reset(before)
        self.failing_since, self.pause = float("inf"), self._pace.every
        self._is_away = False
        self._said.clear()
        return True

    def goes_on(self) -> None:
        self.went_on_at = self._clock.monotonic()

    def rests(self) -> None:
        self.went_on_at = float("inf")

    def failed(self, exc: Exception) -> None:
        errors = list(_errors(exc))
        if any(isinstance(each, Misconfigured) for each in errors):
            raise exc
        # An outage ends by itself; a missing key is none, since only an operator can bring it.
        outage = (Unavailable, TimeoutError)
        bugs = (e for e in errors if isinstance(e, CannotDecrypt) or not isinstance(e, outage))
        bug = next(bugs, None)
        if bug is not None:
            self._failed_by_bug(bug)
            return
        self.failing_since, self.pause = float("inf"), self._pace.after_failure
        if not self._is_away:
            log.warning(self._waits, error=str(errors[0]) or NO_ANSWER)
        self._is_away = True

    def _failed_by_bug(self, error: BaseException) -> None:
        longer = self.pause * 2 if self._said else self._pace.after_failure
        self.pause = min(longer, max(LONGEST_PAUSE, self._pace.after_failure))
        self.failing_since = min(self.failing_since, self._clock.monotonic())
        self.error = type(error).__name__
        self._count(self.name)
        if self.error not in self._said:
            log.error("loop_failed", loop=self.name, error=self.error, stack=_stack(error))
        self._said.add(self.error)


_under_way: ContextVar[_Loop | None] = ContextVar("loop", default=None)
"""The loop whose watched step runs here."""


class _Watched(Generator[Any, Any, object]):
    """A step to await. Calls `goes_on` when it begins, and each time that what it waited for is there."""

    def __init__(self, step: Awaitable[object], goes_on: Callable[[], None]) -> None:
        self._step = step.__await__()
        self._goes_on = goes_on

    def __await__(self) -> "_Watched":
        return self

    def send(self, value: Any) -> Any:
        self._goes_on()
        return self._step.send(value)

    def throw(self, *error: Any) -> Any:
        self._goes_on()
        return self._step.throw(*error)


def is_cancelled() -> bool:
    """Somebody cancels this task, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _errors(exc: Exception) -> Iterator[Exception]:
    """The exceptions in what task groups nest."""
    if isinstance(exc, ExceptionGroup):
        for each in exc.exceptions:
            yield from _errors(each)
    else:
        yield exc


def _stack(error: BaseException) -> str:
    """The traceback of an error and its causes. The text of a foreign exception may hold a secret."""
    text = f": {error}" if isinstance(error, MdmError) else ""
    lines = [*traceback.format_tb(error.__traceback__), type(error).__name__ + text]
    cause = error.__cause__ or error.__context__
    return "".join([_stack(cause), "\n\n"] if cause is not None else []) + "".join(lines)
