"""Values of closed sets as the store holds them, those that only a newer version knows included.

Two versions run side by side in every rollout, and an older one again after a roll-back. Promise: reading a
value never fails. One that this version does not know becomes an unknown member of its set: it equals no
known member, and it is shown and written back unchanged.
"""

from enum import StrEnum
from typing import TypeVar, cast

Member = TypeVar("Member", bound=StrEnum)

UNKNOWN = "(of a newer version)"
"""The name of every unknown member; no known one can have it."""


def known(kind: type[Member], value: str) -> Member:
    """The member of a set with this value; an unknown one where this version has none."""
    # Not `kind(value)`, which takes several times as long.
    if (member := kind._value2member_map_.get(value)) is not None:
        return cast(Member, member)
    unknown = str.__new__(kind, value)
    unknown._name_, unknown._value_ = UNKNOWN, value
    return unknown


def is_known(member: StrEnum | None) -> bool:
    """False for what only a newer version knows. None is known."""
    return member is None or member.name != UNKNOWN
