"""Profiles and PushTopics in memory."""

from collections.abc import Collection

from shared.ports.access import StoredProfile


class FakeProfiles:
    def __init__(self) -> None:
        self.stored: dict[str, StoredProfile] = {}

    async def put(self, profile: StoredProfile) -> None:
        self.stored[profile.identifier] = profile

    async def get(self, identifier: str) -> StoredProfile | None:
        return self.stored.get(identifier)

    async def page(self, after: str | None, limit: int) -> list[StoredProfile]:
        following = sorted(each for each in self.stored if each > (after or ""))
        return [self.stored[identifier] for identifier in following[:limit]]

    async def delete(self, identifiers: Collection[str]) -> None:
        for identifier in identifiers:
            self.stored.pop(identifier, None)


class FakePushTopics:
    def __init__(self, topic: str | None = "com.apple.mgmt.External.test") -> None:
        self.topic = topic

    async def current(self) -> str | None:
        return self.topic
