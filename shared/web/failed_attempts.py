"""Failed authentications, counted by the address they come from.

Promises: only failures count and only failures are answered 429, so right credentials always let
in, whoever else shares the address (a proxy, a company's gateway); memory is bounded. Guessing is
held off by the length of the secrets; this makes it loud, and cheap to answer.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network

import structlog

from shared.ports.clock import Clock

log = structlog.get_logger()

LIMIT = 10
WINDOW = timedelta(minutes=1)
ADDRESSES = 4096
"""Remembered at most; who failed longest ago is forgotten first."""


@dataclass(slots=True)
class _Failures:
    since: float
    count: int = 0


class FailedAttempts:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def note(self, address: str) -> timedelta | None:
        """Count one failure. Returns how long to wait, once there are more than `LIMIT` of them
        within `WINDOW`."""
        source, now = _source(address), self._clock.monotonic()
        failures = self._failures.get(source)
        if failures is None or now - failures.since >= WINDOW.total_seconds():
            failures = self._failures[source] = _Failures(now)
        self._failures.move_to_end(source)
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        failures.count += 1
        if failures.count <= LIMIT:
            return None
        if failures.count == LIMIT + 1:
            log.warning("api_failures_throttled", address=source)
        return WINDOW - timedelta(seconds=now - failures.since)


def _source(address: str) -> str:
    """An IPv6 network is one customer's: a /64 counts as one address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed.packed[:8] + bytes(8), 64)))
    return address
