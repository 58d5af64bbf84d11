"""Who serves which partition: the same answer everywhere for the same members.

Promises: every partition has exactly one member, no member has more than its even share rounded up,
and a change of members moves few partitions of those that stay.
"""

import hashlib
from collections.abc import Collection

from shared.domain.enrollment import PARTITIONS


def assigned(member: str, members: Collection[str]) -> frozenset[int]:
    """The partitions of `member` among `members` (whether or not it is listed itself)."""
    everyone = sorted({member, *members})
    room = dict.fromkeys(everyone, -(-PARTITIONS // len(everyone)))
    mine = set()
    for partition in range(PARTITIONS):
        # Rendezvous hashing with a bound: the best member that is not full yet.
        chosen = max((m for m in everyone if room[m]), key=lambda m: _weight(m, partition))
        room[chosen] -= 1
        if chosen == member:
            mine.add(partition)
    return frozenset(mine)


def _weight(member: str, partition: int) -> bytes:
    return hashlib.sha256(f"{partition}:{member}".encode()).digest()
