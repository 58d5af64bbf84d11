"""The example receivers in three languages, and the guide's Flask listener, as everybody copies them."""

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from services.webhook.endpoints.request import EventBody, EventRequest
from services.webhook.endpoints.sender import HttpSender
from shared.concurrency.clock import SystemClock
from shared.domain.subscription import BodyForm, RequestSecrets, SigningSecret, Subscription
from shared.network.address_guard import AddressGuard
from shared.ports.clock import Clock
from tests.support.fakes.clock import FakeClock
from tests.support.harness.processes import accepts, free_port, spawn, wait_for

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "receivers"
GUIDE = Path(__file__).with_name("guide_listener.py")
SECRET = "whsec_" + b64encode(b"the secret of this subscription").decode()
OTHERS = "whsec_" + b64encode(b"the secret of another receiver.").decode()
LANGUAGES = ("python", "go", "javascript")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("go") / "receiver"
    go = shutil.which("go") or "/usr/local/go/bin/go"
    environ = {**os.environ, "GOCACHE": str(program.parent / "cache"), "GOFLAGS": "-mod=mod"}
    # Go's own packages are built too: without optimizing that takes two thirds of the time.
    command = [go, "build", "-gcflags=all=-N -l", "-o", str(program), str(FOLDER / "receiver.go")]
    built = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert not built.stderr
    return program


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[str]:
    process = spawn(command, {**os.environ, "WEBHOOK_SECRET": SECRET}, log)
    try:
        wait_for(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}/webhook"
    finally:
        process.kill()
        process.wait()


class Receiver:
    """One example, its file, and the means to run it again."""

    def __init__(self, program: list[str], folder: Path) -> None:
        self._program = program
        self._log = folder / "log"
        self.file = folder / "events.jsonl"

    @contextmanager
    def running(self) -> Iterator[str]:
        port = free_port()
        with running([*self._program, str(port), str(self.file)], port, self._log) as url:
            yield url

    def started_with(self, secret: str | None) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name != "WEBHOOK_SECRET"}
        if secret is not None:
            environ["WEBHOOK_SECRET"] = secret
        command = [*self._program, str(free_port()), str(self.file)]
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=20, check=False
        )

    def stored(self) -> list[str]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [json.loads(line)["event_id"] for line in lines if line]


@pytest.fixture(params=LANGUAGES)
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Receiver:
    match request.param:
        case "python":
            program = [sys.executable, str(FOLDER / "receiver.py")]
        case "go":
            program = [str(request.getfixturevalue("compiled"))]
        case _:
            program = ["node", str(FOLDER / "receiver.mjs")]
    return Receiver(program, tmp_path)


def event(id_: str, topic: str = "mdm.Connect") -> EventBody:
    content = {"topic": topic, "event_id": id_, "created_at": "2026-01-02T03:04:05Z", "x": "ü"}
    return EventBody(id_, topic, json.dumps(content, ensure_ascii=False).encode())


async def sent(
    url: str,
    *events: EventBody,
    secrets: tuple[str, ...] = (SECRET,),
    batch: int = 1,
    clock: Callable[[], Clock] = SystemClock,
) -> str | None:
    """The reason of the outcome; None: the receiver took it."""
    subscription = Subscription(
        "s1",
        url,
        form=BodyForm(batch=batch),
        secrets=RequestSecrets(signing=tuple(map(SigningSecret, secrets))),
    )
    guard = AddressGuard(is_loopback_allowed=True)
    async with HttpSender(clock(), timeout=timedelta(seconds=20), guard=guard) as sender:
        return (await sender.send(subscription, EventRequest(events))).reason


async def test_it_takes_events_of_every_topic_single_and_in_batches_and_each_once(
    receiver: Receiver,
) -> None:
    with receiver.running() as url:
        assert await sent(url, event("e1")) is None
        assert await sent(url, event("e2", "future.Topic")) is None
        assert await sent(url, event("e1")) is None
        assert await sent(url, event("e2"), event("e3"), event("e4"), batch=9) is None
        assert await sent(url, event("e5"), batch=9) is None

    assert receiver.stored() == ["e1", "e2", "e3", "e4", "e5"]


async def test_it_refuses_what_is_not_signed_with_its_secret_and_now(receiver: Receiver) -> None:
    with receiver.running() as url:
        reasons = [
            await sent(url, event("e1"), secrets=()),
            await sent(url, event("e1"), secrets=(OTHERS,)),
            await sent(url, event("e1"), clock=FakeClock),
        ]

    assert reasons == ["answered 401"] * 3
    assert receiver.stored() == []


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(None, id="missing"),
        pytest.param("", id="empty"),
        pytest.param("whsec_", id="its beginning only"),
        pytest.param("whsec_" + b64encode(b"x" * 23).decode(), id="short"),
        pytest.param("whsec_$SECRET!" + b64encode(b"x" * 30).decode(), id="no base64"),
    ],
)
def test_it_does_not_start_without_a_secret_that_nobody_can_guess(
    receiver: Receiver, secret: str | None
) -> None:
    ended = receiver.started_with(secret)

    assert ended.returncode == 1
    assert re.fullmatch(r".*WEBHOOK_SECRET must be .*\n", ended.stderr)
    assert not receiver.file.exists()


@pytest.mark.parametrize("time", [b"\xb2", b"1" * 5000, b"now", b""])
async def test_a_time_that_is_no_number_is_refused(receiver: Receiver, time: bytes) -> None:
    headers = {b"webhook-id": b"e1", b"webhook-timestamp": time, b"webhook-signature": b"v1,x"}
    with receiver.running() as url:
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(url, headers=headers, content=b"{}")

    assert answer.status_code == 401


async def test_while_a_secret_is_rotated_one_of_two_signatures_is_enough(
    receiver: Receiver,
) -> None:
    with receiver.running() as url:
        assert await sent(url, event("e1"), secrets=(OTHERS, SECRET)) is None

    assert receiver.stored() == ["e1"]


async def test_it_knows_after_a_crash_what_it_has_and_gets_the_rest_again(
    receiver: Receiver,
) -> None:
    with receiver.running() as url:
        await sent(url, event("e1"))
    with receiver.file.open("a") as file:
        file.write('{"event_id": "e2", "cut o')
    with receiver.running() as url:
        for id_ in ("e1", "e2"):
            assert await sent(url, event(id_)) is None

    found = re.findall(r'^{.*"event_id": ?"(e\d)".*}$', receiver.file.read_text(), re.M)
    assert found == ["e1", "e2"]


async def test_the_listener_of_micromdms_guide_takes_events_unchanged(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "flask", "--app", str(GUIDE), "run", "--port", str(port)]
    with running(command, port, log) as url:
        async with HttpSender(SystemClock()) as sender:
            configured = Subscription("config", url)
            outcomes = [
                await sender.send(configured, EventRequest((event(f"e{n}"),))) for n in range(3)
            ]

    assert [outcome.reason for outcome in outcomes] == [None] * 3
    assert "'event_id': 'e2'" in log.read_text()
