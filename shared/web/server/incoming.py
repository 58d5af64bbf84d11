"""Requests under way, and the bodies that still come.

Promises: a request takes a place among those under way only while something is done for it, not while it
waits for its body; errors are raised inside the route that reads the body, which knows how to say them
to its client.
"""

import asyncio

from starlette.types import Message, Receive

from shared.domain.errors import TooLarge, Unavailable
from shared.web.server.body_budget import BodiesShort, HeldBody

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
