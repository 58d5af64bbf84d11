"""The events of push certificates near their end."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

from services.push.certificates.expiry import PushExpiryEvents
from services.runtime.wanted_topics import WantedTopics
from shared.domain.enrollment import partition_of
from shared.domain.errors import BrokerUnavailable
from shared.domain.event import Event, Topic
from shared.domain.subscription import Subscription
from shared.messaging.envelope import event_json
from shared.security.push_certificate import PushCertificate
from tests.support.fakes.journal import Confirm, FakeJournal, FakePublisher
from tests.support.fakes.push_certificates import FakePushExpiries
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.harness.push_certificates import TOPIC
from tests.support.push_certificate_world import DAY, OTHER, Replica, World


class Killed(BaseException):
    """The process ends here."""


class Pushing:
    """Replicas of push, and a subscription that asks for the topic."""

    def __init__(self, folder: Path, topic: str = "macromdm.PushCertificateExpiring") -> None:
        self.world = World(folder)
        self.expiries = FakePushExpiries()
        self.journal, self.publisher = FakeJournal(), FakePublisher()
        asking = Subscription("1", "https://x.example/", topics=frozenset({topic}))
        self.wanted = WantedTopics(FakeSubscriptions(asking))
        self.partitions = frozenset(range(32))

    async def replica(self, *files: PushCertificate) -> PushExpiryEvents:
        await self.wanted.refresh()
        return PushExpiryEvents(
            Replica(self.world, *files).certificates,
            self.expiries,
            self.journal,
            self.publisher,
            self.wanted,
            self,
            self.world.clock,
            self.world.ids,
        )

    async def refresh(self) -> frozenset[int]:
        return self.partitions

    async def leave(self) -> None:
        return None

    @property
    def published(self) -> list[Event]:
        return self.publisher.published


@pytest.fixture
def pushing(tmp_path: Path) -> Pushing:
    return Pushing(tmp_path)


async def test_each_threshold_of_each_certificate_is_reported_once(pushing: Pushing) -> None:
    first, second = pushing.world.issue(ends=40), pushing.world.issue(OTHER, ends=400)
    replica = await pushing.replica(first, second)
    for _ in range(45):
        await replica.look()
        pushing.world.clock.advance(DAY)

    found = [json.loads(event_json(event)) for event in pushing.published]

    assert [event["push_certificate_event"]["days"] for event in found] == [14, 7, 1]
    assert {event["topic"] for event in found} == {"macromdm.PushCertificateExpiring"}
    assert found[0]["push_certificate_event"] == {
        "version": 1,
        "topic": TOPIC,
        "days": 14,
        "certificate": first.fingerprint,
        "serial": first.serial_number,
        "not_after": first.not_after.isoformat().replace("+00:00", "Z"),
    }


async def test_a_renewed_certificate_begins_again(pushing: Pushing) -> None:
    replica = await pushing.replica(pushing.world.issue(begins=-350, ends=5))
    await replica.look()
    replica = await pushing.replica(pushing.world.issue(begins=-300, ends=20))

    await replica.look()

    assert [json.loads(event.raw_payload)["days"] for event in pushing.published] == [7, 30]


async def test_rule_15_two_replicas_that_look_at_once_make_one_event(pushing: Pushing) -> None:
    certificate = pushing.world.issue(begins=-350, ends=5)
    replicas = [await pushing.replica(certificate) for _ in range(2)]

    await asyncio.gather(*(replica.look() for replica in replicas))
    await asyncio.gather(*(replica.look() for replica in replicas))

    assert len(pushing.journal.events) == 1
    assert len({event_json(event) for event in pushing.published}) == 1


@pytest.mark.parametrize(
    "step", ["all_expiries", "report_expiry", "append", "publish", "published_expiry"]
)
async def test_rule_15_a_kill_at_any_step_leaves_one_id(pushing: Pushing, step: str) -> None:
    certificate = pushing.world.issue(begins=-350, ends=5)

    async def die(operation: str) -> None:
        if operation == step:
            raise Killed

    async def live(_: str) -> None:
        return None

    hooks = (pushing.expiries, pushing.journal, pushing.publisher)
    for each in hooks:
        each.before = die
    with pytest.raises(Killed):
        await (await pushing.replica(certificate)).look()
    for each in hooks:
        each.before = live
    pushing.world.clock.advance(DAY)

    replica = await pushing.replica(certificate)
    await replica.look()
    await replica.look()

    assert len({event_json(event) for event in pushing.published}) == 1
    assert len(pushing.published) == (2 if step == "published_expiry" else 1)


async def test_while_the_broker_is_away_it_waits_and_no_later_one_overtakes_it(
    pushing: Pushing,
) -> None:
    replica = await pushing.replica(pushing.world.issue(begins=-350, ends=10))
    pushing.publisher.outcome = lambda _: Confirm.LOST
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await replica.look()
        pushing.world.clock.advance(4 * DAY)
    pushing.publisher.outcome = lambda _: Confirm.CONFIRMED

    await replica.look()
    await replica.look()

    assert [json.loads(event.raw_payload)["days"] for event in pushing.published] == [14, 7]


@pytest.mark.parametrize("away", [TOPIC, OTHER])
async def test_the_queue_of_one_partition_that_is_away_holds_no_other_topic(
    pushing: Pushing, away: str
) -> None:
    partitions = {topic: partition_of(f"push:{topic}") for topic in (TOPIC, OTHER)}
    assert len(set(partitions.values())) == 2
    certificates = [pushing.world.issue(t, begins=-350, ends=5) for t in (TOPIC, OTHER)]
    replica = await pushing.replica(*certificates)
    pushing.publisher.away = frozenset({partitions[away]})

    with pytest.raises(BrokerUnavailable):
        await replica.look()
    told = [json.loads(event.raw_payload)["topic"] for event in pushing.published]
    assert told == [topic for topic in (TOPIC, OTHER) if topic != away]
    pushing.publisher.away = frozenset()
    await replica.look()

    assert len(pushing.published) == 2


async def test_the_replica_that_serves_its_partition_reports_it(pushing: Pushing) -> None:
    pushing.partitions -= {partition_of(f"push:{TOPIC}")}

    await (await pushing.replica(pushing.world.issue(begins=-350, ends=5))).look()

    assert not pushing.published
    assert not pushing.expiries.stored


async def test_where_nobody_asks_nothing_is_read(tmp_path: Path) -> None:
    pushing = Pushing(tmp_path, "mdm.*")
    read: list[str] = []

    async def note(operation: str) -> None:
        read.append(operation)

    pushing.expiries.before = note
    await (await pushing.replica(pushing.world.issue(begins=-350, ends=5))).look()

    assert not read


async def test_an_expired_certificate_is_not_reported(pushing: Pushing) -> None:
    replica = await pushing.replica(pushing.world.issue(begins=-350, ends=1))
    pushing.world.clock.advance(DAY + timedelta(seconds=1))

    await replica.look()

    assert not pushing.published
    assert Topic.PUSH_CERTIFICATE_EXPIRING in pushing.wanted.now
