from services.push.app import build
from services.runtime.adapters import Adapters
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.periodic import Loops
from shared.messaging.memory.broker import LocalBroker
from shared.settings import AllSettings
from shared.telemetry.metrics import Metrics
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.journal import FakeJournal, FakeMembers
from tests.support.fakes.push_certificates import (
    FakeEnrolledTopics,
    FakePushCertificates,
    FakePushExpiries,
)
from tests.support.fakes.pushes import FakePushes
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.stores import FakeStores
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.fakes.tokens import FakeTokens


async def test_a_service_is_built_from_fakes_of_its_ports() -> None:
    clock, metrics, enrollments = FakeClock(), Metrics(), FakeEnrollments()
    broker = LocalBroker(clock=clock, metrics=metrics)
    stores = FakeStores(
        audit=None,
        enrolled_topics=FakeEnrolledTopics(enrollments),
        enrollments=enrollments,
        members=FakeMembers(),
        journal=FakeJournal(),
        push_certificates=FakePushCertificates(),
        push_expiries=FakePushExpiries(),
        pushes=FakePushes(),
        queue=FakeCommandQueue(),
        tokens=FakeTokens(),
    )
    adapters = Adapters(
        stores=stores,
        broker=broker,
        publisher=broker.publisher,
        partitions=broker.partitions,
        push_requests=broker.push_requests,
        push_request_consumer=broker.push_request_consumer,
        clock=clock,
        ids=FakeIds(),
        metrics=metrics,
        loops=Loops(clock),
        wanted=WantedTopics(FakeSubscriptions()),
    )

    service = await build(AllSettings.model_validate({}), adapters)

    assert service.name == "push"
    assert await service.ready() == ["waits for the store"]
