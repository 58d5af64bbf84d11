"""PushCertificates and EnrolledTopics in memory."""

import asyncio
from dataclasses import replace

from shared.domain.enrollment import EnrollmentStatus
from shared.ports.certificates import InstalledTopic, PushExpiry, TopicVersion
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.pushes import to_millisecond
from tests.support.fakes.queue import Hook, undisturbed


class FakePushCertificates:
    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.stored: dict[str, InstalledTopic] = {}

    async def versions(self) -> list[TopicVersion]:
        await self.before("versions")
        return [self.stored[topic].version for topic in sorted(self.stored)]

    async def load(self, topic: str) -> InstalledTopic | None:
        await self.before("load_certificates")
        return self.stored.get(topic)

    async def put(self, wanted: InstalledTopic, replaces: str | None) -> bool:
        await self.before("put_certificates")
        if self._revision(wanted.topic) != replaces:
            return False
        newest, before = wanted.newest, wanted.before
        newest = replace(newest, installed_at=to_millisecond(newest.installed_at))
        if before is not None:
            before = replace(before, installed_at=to_millisecond(before.installed_at))
        self.stored[wanted.topic] = replace(wanted, newest=newest, before=before)
        await asyncio.sleep(0)
        return True

    async def retire(self, topic: str, revision: str, as_revision: str) -> bool:
        await self.before("retire_certificate")
        if self._revision(topic) != revision:
            return False
        there = self.stored[topic]
        version = replace(there.version, revision=as_revision)
        self.stored[topic] = replace(there, version=version, before=None)
        return True

    async def remove(self, topic: str, revision: str) -> bool:
        await self.before("remove_certificates")
        if self._revision(topic) != revision:
            return False
        del self.stored[topic]
        return True

    def _revision(self, topic: str) -> str | None:
        there = self.stored.get(topic)
        return None if there is None else there.version.revision


class FakePushExpiries:
    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.stored: dict[str, PushExpiry] = {}

    async def all(self) -> list[PushExpiry]:
        await self.before("all_expiries")
        return [*self.stored.values()]

    async def report(self, expiry: PushExpiry, seen: PushExpiry | None) -> bool:
        await self.before("report_expiry")
        there = self.stored.get(expiry.topic)
        is_same = seen is not None and there == replace(seen, event=None)
        if there is not None and not is_same:
            return False
        self.stored[expiry.topic] = expiry
        return True

    async def published(self, expiry: PushExpiry) -> None:
        await self.before("published_expiry")
        if self.stored.get(expiry.topic) == expiry:
            self.stored[expiry.topic] = replace(expiry, event=None)


class FakeEnrolledTopics:
    def __init__(self, enrollments: FakeEnrollments) -> None:
        self._enrollments = enrollments

    async def count(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for record in self._enrollments.records.values():
            if record.status is not EnrollmentStatus.ENROLLED or not record.key.is_device_channel:
                continue
            if record.push is not None and record.push.topic:
                counted[record.push.topic] = counted.get(record.push.topic, 0) + 1
        return counted
