"""Push requests, noted."""

from collections.abc import Collection


class FakePushRequests:
    """`PushRequests`: `requested` has one set for each call."""

    def __init__(self) -> None:
        self.requested: list[set[str]] = []

    def add(self, enrollments: Collection[str]) -> None:
        self.requested.append(set(enrollments))
