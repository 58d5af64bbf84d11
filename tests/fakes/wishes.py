"""Wishes for pushes, noted."""

from collections.abc import Collection


class FakeWishes:
    """`PushWishes`: `wished` has one set for each call."""

    def __init__(self) -> None:
        self.wished: list[set[str]] = []

    def wish(self, enrollments: Collection[str]) -> None:
        self.wished.append(set(enrollments))
