"""Push certificates by API on real parts: store, HTTP, and APNs over HTTP/2 with client certificates."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import bson
import pytest

from shared.concurrency.clock import SystemClock
from shared.security.push_certificate import CurrentTopic, read_pair
from shared.storage.certificates.push import COLLECTION, MongoPushCertificates
from shared.storage.database import Database
from tests.contract.stores import KEYRING
from tests.integration.push_process import (
    Process,
    enroll,
    process,
    queue_command,
    settings,
    until,
)
from tests.support.harness.apns import FakeApns, Says, running
from tests.support.harness.push_certificates import TOPIC, Pair

ONE, ALL = "/v1/config/certificate", "/v1/config/certificates"
OTHER = "com.apple.mgmt.External.other"


@pytest.fixture
async def apns(tmp_path: Path) -> AsyncIterator[FakeApns]:
    async with running(tmp_path / "apns") as fake:
        yield fake


@dataclass
class Issued:
    files: Pair
    serial_number: str

    @property
    def body(self) -> dict[str, str]:
        return {
            "cert": base64.b64encode(self.files.certificate.read_bytes()).decode(),
            "key": base64.b64encode(self.files.key.read_bytes()).decode(),
        }


def issue(apns: FakeApns, name: str, topic: str = TOPIC) -> Issued:
    files = apns.authority.issue(topic, name=name)
    pair = read_pair(files.certificate.read_bytes(), files.key.read_bytes())
    return Issued(files, pair.serial_number)


async def put(replica: Process, issued: Issued, query: str = "") -> int:
    return (await replica.api("PUT", ONE + query, issued.body)).status_code


async def pushed_with(replica: Process, apns: FakeApns) -> str:
    """The serial number of the certificate that a push by API went out with."""
    answer = await replica.api("GET", "/push/MAC")
    assert answer.status_code == 200, answer.text
    return apns.pushes[-1].certificate


async def state(replica: Process) -> str:
    [entry] = (await replica.api("GET", ALL)).json()["certificates"]
    return str(entry["state"])


async def test_a_certificate_put_over_the_api_pushes_what_waited_for_it(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    first = issue(apns, "first")
    async with process(settings(apns, certified=False), database) as replica:
        await queue_command(database)
        replica.broker.push_requests.add(["MAC"])

        assert await put(replica, first) == 200

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)

    assert [each.certificate for each in apns.pushes] == [first.serial_number]


async def test_the_old_certificate_goes_once_apns_took_a_push_with_the_new_one(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    old, new = issue(apns, "old"), issue(apns, "new")
    async with process(settings(apns, certified=False), database) as replica:
        await put(replica, old)
        with_old = await pushed_with(replica, apns)
        await put(replica, new)
        waiting = await state(replica)
        with_new = await pushed_with(replica, apns)

        async def retired() -> bool:
            return await state(replica) == "current"

        await until(retired)
        [document] = await database.collection(COLLECTION).find({})

    assert with_old == old.serial_number
    assert waiting == "waiting"
    assert with_new == new.serial_number
    assert "before" not in document


async def test_a_new_certificate_that_apns_refuses_leaves_the_old_one_in_use(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    old, new = issue(apns, "old"), issue(apns, "new")
    apns.refused.add(new.serial_number)
    async with process(settings(apns, certified=False), database) as replica:
        await put(replica, old)
        await put(replica, new)

        used = [await pushed_with(replica, apns) for _ in range(2)]

        assert replica.metric("push_certificates_refused") == 1
        assert await state(replica) == "waiting"
    assert used == [old.serial_number] * 2


async def test_every_replica_switches_without_a_restart(apns: FakeApns, database: Database) -> None:
    await enroll(database)
    old, new = issue(apns, "old"), issue(apns, "new")
    chosen = settings(apns, certified=False)
    async with process(chosen, database) as one, process(chosen, database) as other:
        await put(one, old)

        async def other_pushes() -> bool:
            return (await other.api("GET", "/push/MAC")).status_code == 200

        await until(other_pushes)
        await put(one, new)

        async def other_has_switched() -> bool:
            return await pushed_with(other, apns) == new.serial_number

        await until(other_has_switched)
        assert await pushed_with(one, apns) == new.serial_number


async def test_pushes_under_way_end_on_the_connection_of_the_old_certificate(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    old, new = issue(apns, "old"), issue(apns, "new")
    async with process(settings(apns, certified=False), database) as replica:
        await put(replica, old)
        apns.answers(b"token", Says(after=1.0))
        slow = asyncio.ensure_future(replica.api("GET", "/push/MAC"))

        async def under_way() -> bool:
            return apns.requests == 1

        await until(under_way)
        await put(replica, new)
        await replica.api("DELETE", f"{ALL}/{TOPIC}?force_topic={TOPIC}")

        assert (await slow).status_code == 200
    assert [each.certificate for each in apns.pushes] == [old.serial_number]


async def test_a_file_and_an_installed_topic_work_side_by_side(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    other = issue(apns, "other", OTHER)
    async with process(settings(apns), database) as replica:
        refused = await put(replica, other)
        left_behind = await database.collection(COLLECTION).find({})
        forced = await put(replica, other, f"?force_topic={OTHER}")
        topics = [c["topic"] for c in (await replica.api("GET", ALL)).json()["certificates"]]
        await pushed_with(replica, apns)
        current = CurrentTopic(MongoPushCertificates(database, KEYRING), TOPIC, SystemClock())

        assert await current.current() == OTHER
    assert (refused, left_behind, forced) == (409, [], 200)
    assert topics == [OTHER, TOPIC]


async def test_the_key_is_neither_in_the_store_nor_in_an_answer_in_clear(
    apns: FakeApns, database: Database
) -> None:
    first = issue(apns, "first")
    lines = first.files.key.read_text().splitlines()[1:-1]
    async with process(settings(apns, certified=False), database) as replica:
        await put(replica, first)
        answers = [(await replica.api("GET", path)).text for path in (ONE, ALL)]
        written = b"".join(
            [
                bson.encode(document)
                for name in await database.names()
                for document in await database.collection(name).find({})
            ]
        )

    assert first.serial_number in answers[1]
    assert TOPIC.encode() in written
    for line in lines:
        assert line.encode() not in written
        assert base64.b64decode(line, validate=True)[:24] not in written
        assert all(line not in answer for answer in answers)
