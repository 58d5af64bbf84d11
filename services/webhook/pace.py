"""How many attempts may run at once against one subscriber.

Promises: a subscriber that hangs holds only its own places; while one is down, retries trickle, and
once it is back they run at full speed within a few successes.
"""

import asyncio
from collections import deque
from datetime import timedelta

from shared.ports import Clock

SLOTS = 64
PATIENCE = timedelta(seconds=2)
LONGEST_WAIT = timedelta(seconds=10)
MOST_RETRIES = 32
_FEWEST_RETRIES = 2
_DOWN_AFTER = 3
_HURRY_AT_MOST_EVERY = 5.0


class Gate:
    """Places for first attempts. Who waits is turned away once nobody has left for a while, so an
    event is stored instead of holding its partition up behind a subscriber that hangs."""

    def __init__(self, slots: int = SLOTS, patience: timedelta = PATIENCE) -> None:
        self._free = slots
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._patience = patience.total_seconds()
        self._is_stuck = False
        self._departures = 0

    async def enter(self) -> bool:
        """True: come in, and `leave` afterwards. False: no place."""
        if self._free:
            self._free -= 1
            return True
        if self._is_stuck:
            return False
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(LONGEST_WAIT.total_seconds()):
                return await self._wait(place)
        except TimeoutError:
            return self._withdraw(place)
        except asyncio.CancelledError:
            if self._withdraw(place):
                self.leave()
            raise

    def leave(self) -> None:
        self._is_stuck = False
        self._departures += 1
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(True)
                return
        self._free += 1

    async def _wait(self, place: "asyncio.Future[bool]") -> bool:
        while True:
            before = self._departures
            done, _ = await asyncio.wait({place}, timeout=self._patience)
            if done:
                return place.result()
            if before == self._departures:
                self._is_stuck = True
                return self._withdraw(place)

    def _withdraw(self, place: "asyncio.Future[bool]") -> bool:
        """Stop waiting; True if the place was given in the same moment."""
        if place.done() and not place.cancelled():
            return place.result()
        place.cancel()
        return False


class Pace:
    """Concurrency of the retries of one subscriber: doubled by a success, halved by a failure."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limit = _FEWEST_RETRIES * 4
        self._failures = 0
        self._hurried_at = -_HURRY_AT_MOST_EVERY
        self.active = 0

    @property
    def has_room(self) -> bool:
        return self.active < self._limit

    @property
    def is_down(self) -> bool:
        """Nothing but failures lately."""
        return self._failures >= _DOWN_AFTER

    def failed(self) -> None:
        self._failures += 1
        self._limit = max(_FEWEST_RETRIES, self._limit // 2)

    def succeeded(self) -> bool:
        """True: the subscriber was down and is back, so whatever waits for it may go now."""
        was_down, self._failures = self.is_down, 0
        self._limit = min(MOST_RETRIES, self._limit * 2)
        now = self._clock.monotonic()
        if not was_down or now - self._hurried_at < _HURRY_AT_MOST_EVERY:
            return False
        self._hurried_at = now
        return True
