"""GET /push/{udid} and POST /v1/push/{udid}, as MicroMDM's clients call them."""

import base64
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr

from services.push.routes import TAG, PushRoutes
from services.push.send.attempt import EXPIRES_AFTER, PushAttempts
from services.push.send.outcomes import Outcome, Rejected, TokenDead, TopicRefused
from services.push.send.pusher import Pusher
from services.push.send.topics import Topics
from services.runtime.wanted_topics import WantedTopics
from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
)
from shared.domain.errors import StoreUnavailable
from shared.telemetry.metrics import Metrics
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.apns import FakeApnsSender
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.pushes import FakePushes
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.subscriptions import FakeSubscriptions

TOPIC = "com.apple.mgmt.External.test"
TARGET = PushTarget(TOPIC, b"token", "magic")
AUTHORIZED = {"Authorization": "Basic " + base64.b64encode(b"micromdm:secret").decode()}
BOTH = [("GET", "/push/MAC"), ("POST", "/v1/push/MAC")]


class Served:
    """The routes on fakes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.apns = FakeApnsSender()
        self.enrollments = FakeEnrollments()
        self.pushes = FakePushes()
        topics = Topics([TOPIC], self.clock, lambda _: None)
        attempts = PushAttempts(
            self.apns,
            self.enrollments,
            topics,
            self.clock,
            lambda: 0.0,
            WantedTopics(FakeSubscriptions()),
            FakeIds(),
        )
        pusher = Pusher(
            attempts, self.enrollments, FakeCommandQueue(), self.pushes, self.clock, Metrics()
        )
        routes = PushRoutes(self.enrollments, pusher, ApiAuth([SecretStr("secret")]))

        async def run() -> None:
            return None

        service = Service("push", routes.router, run, openapi_tags=[TAG])
        self.edge = create_app([service], max_body=1000, metrics=None)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.edge), base_url="http://server", headers=AUTHORIZED
        )

    def enroll(
        self,
        device: str = "MAC",
        status: EnrollmentStatus = EnrollmentStatus.ENROLLED,
        target: PushTarget | None = TARGET,
        user: str | None = None,
    ) -> None:
        name = device if user is None else f"{device}:{user}"
        self.enrollments.add(
            Enrollment(
                EnrollmentKey(name, device, udid=device, user=user),
                status,
                push=target,
                inventory=Inventory(serial_number=f"SERIAL-{device}"),
                token_updated_at=self.clock.now(),
            )
        )

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.mark.parametrize(("method", "path"), BOTH)
async def test_success_is_micromdms_answer(served: Served, method: str, path: str) -> None:
    served.enroll()

    answer = await served.client.request(method, path)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json() == {"status": "success", "push_notification_id": "apns-1"}
    assert served.apns.pushes[0].expires_at == served.clock.now() + EXPIRES_AFTER


@pytest.mark.parametrize(("method", "path"), BOTH)
async def test_the_expiration_is_handed_on(served: Served, method: str, path: str) -> None:
    served.enroll()

    await served.client.request(method, f"{path}?expiration=1767225600")

    assert served.apns.pushes[0].expires_at == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["MAC", "SERIAL-MAC"])
async def test_any_id_that_names_one_device_will_do(served: Served, name: str) -> None:
    served.enroll()

    assert (await served.get(f"/push/{name}")).status_code == 200


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "1e9", "999999999999", "９"])
async def test_an_expiration_that_is_no_time_is_refused(served: Served, value: str) -> None:
    served.enroll()

    answer = await served.get(f"/push/MAC?expiration={value}")

    assert answer.status_code == 400
    assert "expiration" in answer.json()["error"]
    assert served.apns.pushes == []


@pytest.mark.parametrize(("method", "path"), BOTH)
async def test_without_the_key_nothing_is_pushed(served: Served, method: str, path: str) -> None:
    served.enroll()

    answer = await served.client.request(method, path, headers={"Authorization": "Basic bm8="})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="micromdm"'
    assert answer.json()["error"] == "Unauthorized"
    assert served.apns.pushes == []


async def error_of(served: Served, path: str = "/push/MAC") -> tuple[int, str]:
    answer = await served.get(path)
    return answer.status_code, answer.json()["error"]


async def test_an_unknown_device_is_404(served: Served) -> None:
    assert await error_of(served) == (404, "no device MAC is known")


@pytest.mark.parametrize(
    ("status", "target"),
    [
        (EnrollmentStatus.AUTHENTICATED, None),
        (EnrollmentStatus.CHECKED_OUT, PushTarget(TOPIC, b"token", "magic")),
        (EnrollmentStatus.ENROLLED, None),
        (EnrollmentStatus.ENROLLED, PushTarget(TOPIC, b"", "")),
        (EnrollmentStatus.AUTHENTICATED, PushTarget("com.apple.mgmt.other", b"token", "magic")),
    ],
)
async def test_a_device_that_cannot_be_pushed_yet_is_409(
    served: Served, status: EnrollmentStatus, target: PushTarget | None
) -> None:
    served.enroll(status=status, target=target)

    assert (await error_of(served))[0] == 409
    assert served.apns.pushes == []


async def test_an_id_of_several_enrollments_is_409_and_names_them(served: Served) -> None:
    served.enroll("MAC", user="anna")
    served.enroll("PAD", user="anna")

    status, error = await error_of(served, "/push/anna")

    assert status == 409
    assert "MAC:anna, PAD:anna" in error


async def test_a_topic_without_a_certificate_is_503_and_named(served: Served) -> None:
    served.enroll(target=PushTarget("com.apple.mgmt.other", b"token", "magic"))

    status, error = await error_of(served)

    assert status == 503
    assert error.startswith(
        "no push certificate for topic com.apple.mgmt.other: install one by PUT"
    )


async def test_a_device_that_enrolled_without_a_certificate_is_503_with_what_to_do(
    served: Served,
) -> None:
    served.enroll(target=PushTarget("", b"token", "magic"))

    status, error = await error_of(served)

    assert status == 503
    assert error.startswith(
        "no push certificate: install one by PUT /v1/config/certificate, or name"
    )
    assert error.endswith("and enroll the device again, which has no topic yet")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (TokenDead("410 Unregistered", None), "410 Unregistered"),
        (TopicRefused("403 BadCertificate"), "403 BadCertificate"),
        (Rejected("413 PayloadTooLarge"), "413 PayloadTooLarge"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_apns_refuses_is_502_with_its_words(
    served: Served, outcome: Outcome, said: str
) -> None:
    served.enroll()
    served.apns.script.append(outcome)

    status, error = await error_of(served)

    assert status == 502
    assert said in error


async def test_a_refused_topic_is_tried_again_when_an_operator_asks(served: Served) -> None:
    served.enroll()
    served.apns.script.append(TopicRefused("403 BadCertificate"))
    await served.get("/push/MAC")

    assert (await served.get("/push/MAC")).status_code == 200


async def test_a_store_that_is_away_is_503(served: Served) -> None:
    async def away(operation: str) -> None:
        raise StoreUnavailable("MongoDB: away")

    served.enrollments.before = away

    answer = await served.get("/push/MAC")

    assert answer.status_code == 503
    assert answer.headers["retry-after"].isdigit()


async def test_a_push_by_hand_is_repeated_by_the_sweep_as_any_other(served: Served) -> None:
    served.enroll()

    await served.get("/push/MAC")

    assert served.pushes.rows["MAC"].next_at == served.clock.now() + timedelta(minutes=5)
