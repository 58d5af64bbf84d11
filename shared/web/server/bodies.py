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
        self.shares: dict[str, _Share] = {}
        self.held = 0

    def open(self, source: str) -> "HeldBody":
        """A body that begins; `close` it when its request is answered."""
        share = self.shares.setdefault(source, _Share())
        body = HeldBody(self, source, share)
        share.count += 1
        share.unfinished[body] = None
        return body

    def hold(self, source: str, size: int) -> "HeldBody":
        """A body that is there; `has_room` for it."""
        body = self.open(source)
        body.add(size)
        body.finish()
        return body

    def has_room(self, size: int) -> bool:
        """True if so many bytes more displace none."""
        return self.held + size <= self._limit

    def make_room(self, asking: "HeldBody") -> None:
        """Refuse the newest body of the largest share that is not whole, so that older ones end. Raises
        BodiesShort when the body that asks is refused: where its own share is the largest, or nothing can be
        taken back."""
        while self.held > self._limit:
            largest = max(self.shares.values(), key=lambda share: share.size)
            refused = asking
            if asking.share.size < largest.size:
                unfinished = (each for each in reversed(largest.unfinished) if each.size)
                refused = next(unfinished, asking)
            refused.refuse()
            if refused is asking:
                raise BodiesShort


class HeldBody:
    """The bytes that a process holds of one body."""

    __slots__ = ("_budget", "_source", "is_refused", "is_whole", "share", "size", "waiting")

    def __init__(self, budget: BodyBudget, source: str, share: _Share) -> None:
        self._budget = budget
        self._source = source
        self.share = share
        self.size = 0
        self.is_whole = False
        self.is_refused = False
        self.waiting: asyncio.Timeout | None = None
        """The timeout of the task that waits for more of it."""

    def add(self, size: int) -> None:
        """So much of it has come. Raises BodiesShort when there is no room for it."""
        if self.is_refused:
            raise BodiesShort
        self._change(size)
        self._budget.make_room(self)

    def finish(self) -> None:
        """It is whole: its request is worked on, and no other body takes its room any more."""
        self.is_whole = True
        self.share.unfinished.pop(self, None)

    def refuse(self) -> None:
        """Give its room back, and wake the task that waits for more of it."""
        self.is_refused = True
        self._change(-self.size)
        if self.waiting is not None:
            self.waiting.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        self._change(-self.size)
        self.share.unfinished.pop(self, None)
        self.share.count -= 1
        if not self.share.count:
            del self._budget.shares[self._source]

    def _change(self, size: int) -> None:
        self.size += size
        self.share.size += size
        self._budget.held += size


MOST_UNDER_WAY = 2000
"""Requests that one process works on at once; the next ones get 503."""
TOO_MANY = "too many requests at once"


@dataclass(slots=True)
class UnderWay:
    most: int
    count: int = 0


class IncomingBody:
    """Checks a body on its way from one request's `receive` to its route."""

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
            # Requests whose bodies came meanwhile are too many with those that came in.
            if self._under_way.count > self._under_way.most:
                raise Unavailable(TOO_MANY)
        return message

    async def _more(self) -> Message:
        """While it waits, the request is not under way."""
        if self._held.is_refused:
            raise BodiesShort
        self._under_way.count -= 1
        try:
            async with asyncio.timeout(None) as self._held.waiting:
                return await self._receive()
        except TimeoutError:
            raise BodiesShort from None
        finally:
            self._held.waiting = None
            self._under_way.count += 1


def over(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes")
