"""Bound the request bodies that one process holds, and the requests that it works on.

Promises: all bodies together stay within the budget, and none is refused while they do; when the budget is
short, bodies of the address with the largest share are refused, so that no address takes the part of the
others. A body counts by the bytes that have come, until its request is answered. A request counts as under
way only while the process works on it, not while it waits for its body. Errors are raised inside the route
that reads the body, which knows how to answer its client.
"""

import asyncio
from dataclasses import dataclass, field

from starlette.types import Message, Receive

from shared.domain.errors import TooLarge, Unavailable

DEFAULT_BUDGET = 128 * 1024**2


class BodiesShort(Unavailable):
    """There is no room for this body now."""

    def __init__(self) -> None:
        super().__init__("too many bytes of requests at once")


@dataclass(slots=True)
class _Share:
    size: int = 0
    count: int = 0
    unfinished: "dict[HeldBody, None]" = field(default_factory=dict)
    """In the order in which they began."""


class BodyBudget:
    def __init__(self, limit: int = DEFAULT_BUDGET) -> None:
        self._limit = limit
        self._shares: dict[str, _Share] = {}
        self.held = 0

    def open(self, source: str) -> "HeldBody":
        """A body that begins; `close` it when its request is answered."""
        share = self._shares.setdefault(source, _Share())
        body = HeldBody(self, source)
        share.count += 1
        share.unfinished[body] = None
        return body

    def add(self, body: "HeldBody", size: int) -> None:
        """So much of a body has come. Raises BodiesShort when it is the one to be refused."""
        self._change(body, size)
        while self.held > self._limit:
            refused = self._one_to_refuse(body)
            refused.refuse()
            if refused is body:
                raise BodiesShort

    def finish(self, body: "HeldBody") -> None:
        """It is whole: its request is worked on, and nobody takes its room any more."""
        self._shares[body.source].unfinished.pop(body, None)

    def free(self, body: "HeldBody") -> None:
        self._change(body, -body.size)

    def remove(self, body: "HeldBody") -> None:
        self.free(body)
        self.finish(body)
        share = self._shares[body.source]
        share.count -= 1
        if not share.count:
            del self._shares[body.source]

    def _change(self, body: "HeldBody", size: int) -> None:
        body.size += size
        self._shares[body.source].size += size
        self.held += size

    def _one_to_refuse(self, asking: "HeldBody") -> "HeldBody":
        """Pick the newest body of the largest share that is not whole, so that older ones end. The body
        that asks is refused where its own share is the largest, or nothing can be taken back."""
        largest = max(self._shares.values(), key=lambda share: share.size)
        if self._shares[asking.source].size == largest.size:
            return asking
        return next((each for each in reversed(largest.unfinished) if each.size), asking)


class HeldBody:
    """The bytes that a process holds of one body."""

    __slots__ = ("_budget", "is_refused", "is_whole", "size", "source", "waiting")

    def __init__(self, budget: BodyBudget, source: str) -> None:
        self._budget = budget
        self.source = source
        self.size = 0
        self.is_whole = False
        self.is_refused = False
        self.waiting: asyncio.Timeout | None = None
        """The timeout of the task that waits for more of it."""

    def add(self, size: int) -> None:
        """Raises BodiesShort when there is no room for it."""
        if self.is_refused:
            raise BodiesShort
        self._budget.add(self, size)

    def finish(self) -> None:
        self.is_whole = True
        self._budget.finish(self)

    def refuse(self) -> None:
        """Give its room back, and wake the task that waits for more of it."""
        self.is_refused = True
        self._budget.free(self)
        if self.waiting is not None:
            self.waiting.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        self._budget.remove(self)


MOST_UNDER_WAY = 2000
"""Requests that one process works on at once; the next ones hear 503."""
TOO_MANY = "too many requests at once"


class UnderWay:
    """Counts the requests that are worked on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    @property
    def is_full(self) -> bool:
        return self._count >= self._most

    @property
    def is_over(self) -> bool:
        """Requests whose bodies came meanwhile are too many with those that came in."""
        return self._count > self._most

    def enter(self) -> None:
        self._count += 1

    def leave(self) -> None:
        self._count -= 1


class IncomingBody:
    """Stands between one request's `receive` and its route."""

    def __init__(self, receive: Receive, held: HeldBody, under_way: UnderWay, limit: int) -> None:
        self._receive = receive
        self._held = held
        self._under_way = under_way
        self._limit = limit
        self.declared = 0
        """Its Content-Length."""

    async def receive(self) -> Message:
        """Raises TooLarge, or Unavailable where this process has no room for it."""
        if self._held.is_whole:
            return await self._receive()
        if max(self.declared, self._held.size) > self._limit:
            raise over(self._limit)
        message = await self._more()
        if message["type"] != "http.request":
            return message
        self._held.add(len(message.get("body", b"")))
        if self._held.size > self._limit:
            raise over(self._limit)
        if not message.get("more_body", False):
            self._held.finish()
            if self._under_way.is_over:
                raise Unavailable(TOO_MANY)
        return message

    async def _more(self) -> Message:
        """While it waits, the request is not under way."""
        if self._held.is_refused:
            raise BodiesShort
        self._under_way.leave()
        try:
            async with asyncio.timeout(None) as self._held.waiting:
                return await self._receive()
        except TimeoutError:
            raise BodiesShort from None
        finally:
            self._held.waiting = None
            self._under_way.enter()


def over(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes")
