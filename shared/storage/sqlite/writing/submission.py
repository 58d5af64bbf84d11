"""One write on its way into a commit."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")
Write = Callable[[sqlite3.Connection, int], Result]
"""Runs statements on the connection. The number is how many bytes it may write where it runs: it raises
IsLarge, before it changes anything, when they are more. What it raises beside that and errors of SQLite is
its own fault, and told to it alone; it has changed nothing of the document at hand by then."""


FAILURES = (sqlite3.Error, MemoryError)
"""What SQLite raises: the second one where it has no memory. They concern the whole transaction."""


class IsLarge(Exception):
    """A write found that it has much to write: it has changed nothing, and wants to run in the thread."""


@dataclass(slots=True, eq=False)
class Submitted:
    """A write, and whoever waits for it."""

    write: Write[Any]
    outcome: "asyncio.Future[Any]"
    size: int
    result: Any = None
    error: Exception | None = None

    def run(self, connection: sqlite3.Connection, limit: int) -> None:
        """Raises only FAILURES and IsLarge."""
        try:
            self.result = self.write(connection, limit)
        except (*FAILURES, IsLarge):
            raise
        except Exception as exc:  # noqa: BLE001 - whoever submitted the write raises it
            self.error = exc

    def tell(self, failure: Exception | None = None) -> None:
        error = failure or self.error
        if self.outcome.done():
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(self.result)
