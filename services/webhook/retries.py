"""When blocked lanes are seen to: each by the schedule of its head, or sooner once its subscriber is back.

Promises: a blocked lane waits here once, however often it is planned; thousands of them share a
bounded number of runs, few while their subscriber is down. When a subscriber recovers, its lanes are
hurried, except those where that was in vain lately. One lane's fault does not end the retries of
the others. What a run does with a lane is decided in `lane_retry`.
"""

import heapq
from collections import deque
from datetime import timedelta
from itertools import count

import structlog

from services.webhook.attempts import Attempts, Endpoint
from services.webhook.lane_retry import LaneRetry
from services.webhook.lanes import PartitionLanes
from services.webhook.open_lane import OpenLane
from shared.domain.errors import Unavailable
from shared.pacing import Loops, Pace
from shared.ports.clock import Clock

log = structlog.get_logger()

PACE = Pace(every=timedelta(milliseconds=50), after_failure=timedelta(seconds=1))
_STORE_AWAY = timedelta(seconds=2)
_PAUSE_WHILE_DOWN = timedelta(milliseconds=50)
_FEW = 1000

Run = tuple[PartitionLanes, OpenLane]


class Retries:
    """One for all partitions of a process."""

    def __init__(self, lane_retry: LaneRetry, attempts: Attempts, clock: Clock) -> None:
        self._lane_retry = lane_retry
        self._attempts = attempts
        self._clock = clock
        self._planned: list[tuple[float, int, Run]] = []
        self._tidy_at = _FEW
        self._order = count()
        self._ready: dict[str, deque[Run]] = {}
        self._hurried_at: dict[str, float] = {}

    @property
    def held(self) -> int:
        """How many entries are kept, those included that have no effect any more."""
        return len(self._planned) + sum(len(ready) for ready in self._ready.values())

    def plan(self, lanes: PartitionLanes, lane: OpenLane, wait: timedelta) -> None:
        """See to a blocked lane after `wait`, unless that is planned already."""
        if lane.due is None and not lane.is_retrying:
            self._plan(lanes, lane, wait)

    async def run(self, loops: Loops) -> None:
        """Start what is due, until cancelled."""
        await loops.keep_doing("retries", self._tick, PACE, waits="retries_wait")

    async def _tick(self) -> None:
        self._collect()
        for subscription in list(self._ready):
            endpoint = self._attempts.endpoint(subscription)
            self._hurry_after_recovery(subscription, endpoint)
            self._start(subscription, endpoint)

    def _plan(self, lanes: PartitionLanes, lane: OpenLane, wait: timedelta) -> None:
        lane.due = self._clock.monotonic() + wait.total_seconds()
        heapq.heappush(self._planned, (lane.due, next(self._order), (lanes, lane)))
        self._ready.setdefault(lane.key.subscription, deque())
        if len(self._planned) >= self._tidy_at:
            self._planned = [entry for entry in self._planned if _counts(entry)]
            heapq.heapify(self._planned)
            self._tidy_at = max(_FEW, 2 * len(self._planned))

    def _collect(self) -> None:
        now = self._clock.monotonic()
        while self._planned and self._planned[0][0] <= now:
            entry = heapq.heappop(self._planned)
            if _counts(entry):
                self._make_ready(entry[2])

    def _make_ready(self, run: Run) -> None:
        _, lane = run
        lane.due = None
        lane.is_retrying = True
        self._ready[lane.key.subscription].append(run)

    def _hurry_after_recovery(self, subscription: str, endpoint: Endpoint) -> None:
        if endpoint.recovered_at > self._hurried_at.get(subscription, float("-inf")):
            self._hurried_at[subscription] = endpoint.recovered_at
            for entry in list(self._planned):
                run = entry[2]
                if run[1].key.subscription == subscription and _counts(entry):
                    self._hurry(run)

    def _hurry(self, run: Run) -> None:
        lane = run[1]
        if lane.hurry_from <= self._clock.monotonic():
            lane.is_hurried = True
            self._make_ready(run)

    def _start(self, subscription: str, endpoint: Endpoint) -> None:
        ready = self._ready[subscription]
        while ready and endpoint.has_room:
            lanes, lane = ready.popleft()
            if lanes.is_live:
                endpoint.retrying += 1
                lanes.spawn_retry(self._run(lanes, lane, endpoint))

    async def _run(self, lanes: PartitionLanes, lane: OpenLane, endpoint: Endpoint) -> None:
        began = self._clock.monotonic()
        try:
            wait = await self._guarded(lanes, lane)
            if wait is not None and endpoint.is_down:
                await self._clock.sleep(_PAUSE_WHILE_DOWN)
        finally:
            endpoint.retrying -= 1
            lane.is_retrying = False
        if wait is None:
            lanes.forget(lane)
        elif lanes.is_live:
            self._plan(lanes, lane, wait)
            if began <= endpoint.recovered_at:  # it was not planned when the others were hurried
                self._hurry((lanes, lane))
        # The next one at once, instead of at the next tick.
        self._start(lane.key.subscription, endpoint)

    async def _guarded(self, lanes: PartitionLanes, lane: OpenLane) -> timedelta | None:
        """How long to wait before the next look; None: the lane is free, or no longer ours."""
        try:
            return await self._lane_retry.advance(lanes, lane)
        except (Unavailable, TimeoutError) as exc:
            log.warning("retry_put_off", lane=lane.key, error=str(exc))
        except Exception:
            log.exception("retry_failed", lane=lane.key)
        return _STORE_AWAY


def _counts(entry: tuple[float, int, Run]) -> bool:
    """Whether an entry of the plan still has an effect."""
    due, _, (lanes, lane) = entry
    return lanes.is_live and lane.due == due
