"""Nothing secret leaves by logs or metrics, whatever goes right or wrong."""

import asyncio
import base64
import plistlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from shared.domain.event import Topic
from shared.domain.identity import BoundBy, QuarantineReason
from shared.telemetry.metrics import PushOutcome, Reason, RenewalOutcome, ScepIssue, ScepRefusal
from tests.integration.whole import GUIDE_TOPIC, TOPIC, Whole, whole_server
from tests.support.harness.apns import reason
from tests.support.harness.processes import free_port
from tests.support.harness.sink import Behaviour, Kind, Script
from tests.support.harness.system import API_KEY, ServiceProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUSH_TOKEN = secrets.token_bytes(32)
UNLOCK_TOKEN = secrets.token_bytes(64)
BOOTSTRAP_TOKEN = secrets.token_bytes(48)
MAGIC = f"magic-{secrets.token_hex(12)}"
PAYLOAD = f"payload-{secrets.token_hex(12)}"
WRONG_KEY = f"wrong-{secrets.token_hex(12)}"
WEBHOOK_PASSWORD = f"hook-{secrets.token_hex(12)}"
WEBHOOK_TOKEN = f"query-{secrets.token_hex(12)}"
STORE_PASSWORD = f"store-{secrets.token_hex(12)}"
BROKER_PASSWORD = f"broker-{secrets.token_hex(12)}"
URL_PARAM = f"param-{secrets.token_hex(12)}"

DEAD_LETTERED = "macromdm_deliveries_given_up_total"
SECRETS: dict[str, bytes] = {
    "push token": PUSH_TOKEN,
    "unlock token": UNLOCK_TOKEN,
    "bootstrap token": BOOTSTRAP_TOKEN,
    "push magic": MAGIC.encode(),
    "API key": API_KEY.encode(),
    "wrong API key": WRONG_KEY.encode(),
    "webhook password": WEBHOOK_PASSWORD.encode(),
    "webhook token": WEBHOOK_TOKEN.encode(),
    "payload": PAYLOAD.encode(),
    "URL parameter": URL_PARAM.encode(),
}


def forms(secret: bytes) -> Iterator[bytes]:
    """A secret as it might be written: plain, hex, base64 at any entry in longer bytes, escaped."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield quote(secret).encode()
    yield repr(secret)[2:-1].encode()
    for before in range(3):
        # without the characters that depend on what stands around
        encoded = base64.b64encode(b"\0" * before + secret)
        inner = encoded[4 if before else 0 : -4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


def found_in(text: bytes, known: dict[str, bytes]) -> list[str]:
    return [name for name, secret in known.items() if any(form in text for form in forms(secret))]


@dataclass(frozen=True)
class Said:
    """What a server told its operator."""

    output: bytes
    metrics: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def said(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Said]:
    """By a server after a day in which all sorts of things went wrong."""

    def with_credentials(url: str) -> str:
        return url.replace("//", f"//hook:{WEBHOOK_PASSWORD}@") + f"?t={WEBHOOK_TOKEN}"

    folder = tmp_path_factory.mktemp("secrets")
    schedule = {"MDM_WEBHOOK_RETRY_SCHEDULE": "1s"}
    async with whole_server(folder, schedule, webhook=with_credentials) as whole:
        await a_good_day(whole)
        await a_bad_day(whole)
        metrics = whole.process.metrics()
        assert await asyncio.to_thread(whole.process.terminate) == 0
        yield Said(whole.process.output().encode(), metrics)


async def a_good_day(whole: Whole) -> None:
    device = whole.device()
    device.token = PUSH_TOKEN
    await device.authenticate()
    await device.token_update(PushMagic=MAGIC, UnlockToken=UNLOCK_TOKEN)
    await device.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP_TOKEN)
    await device.checkin("GetBootstrapToken", query=f"?p={URL_PARAM}")
    profile = plistlib.dumps({"PayloadContent": PAYLOAD})
    body = {
        "udid": device.id,
        "request_type": "InstallProfile",
        "payload": base64.b64encode(profile).decode(),
    }
    queued = await whole.api("POST", "/v1/commands", body)
    assert queued.status_code == 201
    assert (await whole.api("GET", f"/push/{device.id}")).status_code == 200
    assert found_in((await device.connect()).content, SECRETS) == ["payload"]
    command = queued.json()["payload"]["command_uuid"]
    await device.connect("Acknowledged", CommandUUID=command, Result=PAYLOAD)
    await whole.events_of(device.id, 6)


def answering(behaviour: Behaviour, udid: str) -> Script:
    """That to the events of one device, and 200 to those of others."""
    return lambda event: behaviour if udid in str(event) else Behaviour()


async def a_bad_day(whole: Whole) -> None:
    device = await whole.enrolled()
    device.token = PUSH_TOKEN
    await device.token_update(PushMagic=MAGIC, UnlockToken=UNLOCK_TOKEN)
    for behaviour in (
        Behaviour(Kind.RESET),
        Behaviour(status=500),
        Behaviour(status=302, location=f"http://x/{WEBHOOK_TOKEN}"),
    ):
        dead_lettered = whole.metric(DEAD_LETTERED)
        patient = await whole.enrolled()
        whole.sink.script = answering(behaviour, patient.id)
        await patient.token_update(PushMagic=MAGIC, UnlockToken=UNLOCK_TOKEN)
        await patient.connect(query=f"?p={URL_PARAM}")
        async with asyncio.timeout(30):
            while whole.metric(DEAD_LETTERED) < dead_lettered + 2:
                await device.connect()  # only while events of others are taken
    whole.sink.script = None
    for answer in (reason(400, "BadDeviceToken"), reason(410, "Unregistered"), reason(500, "x")):
        whole.apns.answers(PUSH_TOKEN, answer)
        await whole.api("GET", f"/push/{device.id}")
        await device.token_update(PushMagic=MAGIC)
    # refused by check-in and by the API, with secrets in what is refused
    thief = whole.device(UDID=device.id)
    await thief.token_update(PushMagic=MAGIC, Token=PUSH_TOKEN, UnlockToken=UNLOCK_TOKEN)
    await device.checkin("TokenUpdate", PushMagic=MAGIC, Token=PUSH_TOKEN.hex())
    await device.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP_TOKEN.hex())
    await device.send("/mdm/checkin", MAGIC.encode() + PUSH_TOKEN)
    await device.send("/mdm/connect", b"x", signature=MAGIC)
    await device.connect(PAYLOAD)
    await device.checkin(PAYLOAD)
    for body in (
        PAYLOAD.encode(),
        {"udid": device.id, "request_type": "InstallProfile", "payload": PAYLOAD + "%"},
        {"udid": device.id, "request_type": "ProfileList", PAYLOAD: PAYLOAD},
        {"udid": device.id, "request_type": PAYLOAD},
    ):
        assert (await whole.api("POST", "/v1/commands", body)).status_code == 400
    await whole.api("POST", f"/v1/commands/{device.id}", PAYLOAD.encode())
    await whole.api("GET", f"/push/{device.id}?expiration={PAYLOAD}")
    await whole.api("GET", "/v1/commands/x", auth=("micromdm", WRONG_KEY))
    reader, writer = await asyncio.open_connection("127.0.0.1", whole.process.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n" + MAGIC.encode() + b"\r\n\r\n")
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_no_secret_is_logged(said: Said) -> None:
    assert b"device_refused" in said.output
    assert found_in(said.output, SECRETS) == []


async def test_no_secret_is_in_the_metrics(said: Said) -> None:
    assert found_in(said.metrics.encode(), SECRETS) == []


async def test_the_labels_of_metrics_come_from_closed_sets(said: Said) -> None:
    ours = [line for line in said.metrics.splitlines() if line.startswith("macromdm_")]
    labels: dict[str, set[str]] = {}
    for line in ours:
        for name, value in re.findall(r'[{,](\w+)="([^"]*)"', line):
            labels.setdefault(f"{line.split('{')[0]} {name}", set()).add(value)

    allowed = {
        "macromdm_messages_accepted_total topic": set(Topic),
        "macromdm_requests_refused_total reason": set(Reason),
        "macromdm_pushes_total outcome": set(PushOutcome),
        "macromdm_push_certificate_expiry_timestamp_seconds topic": {TOPIC, GUIDE_TOPIC},
        "macromdm_certificates_rebound_total how": set(BoundBy),
        "macromdm_quarantine_refused_total reason": set(QuarantineReason),
        "macromdm_renewals_total outcome": set(RenewalOutcome),
        "macromdm_scep_issued_total kind": set(ScepIssue),
        "macromdm_scep_refused_total reason": set(ScepRefusal),
        "macromdm_cohort_size_bucket le": labels["macromdm_cohort_size_bucket le"],
    }
    assert labels.keys() == allowed.keys()
    assert all(values <= allowed[name] for name, values in labels.items())


async def test_no_password_of_store_or_broker_is_logged_while_they_are_away(
    tmp_path: Path,
) -> None:
    services = [
        ServiceProcess(
            name,
            tmp_path / name,
            {
                "MDM_MONGODB_URL": f"mongodb://mdm:{STORE_PASSWORD}@127.0.0.1:{free_port()}/mdm",
                "MDM_AMQP_URL": f"amqp://mdm:{BROKER_PASSWORD}@127.0.0.1:{free_port()}/",
            },
        )
        for name in ("checkin", "webhook")
    ]
    try:
        for service in services:
            service.launch()
        async with asyncio.timeout(30):
            while not all("waits" in service.output() for service in services):
                await asyncio.sleep(0.1)
    finally:
        for service in services:
            service.close()
    known = {"store": STORE_PASSWORD.encode(), "broker": BROKER_PASSWORD.encode()}

    for service in services:
        assert found_in(service.output().encode(), known | SECRETS) == []


async def test_the_search_would_find_a_secret() -> None:
    around = b"about: "
    for name, secret in SECRETS.items():
        for written in (secret, secret.hex().encode(), base64.b64encode(around + secret + b"!")):
            assert found_in(around + written, {name: secret}) == [name]
