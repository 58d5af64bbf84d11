"""Who was refused: what the log and the device's record say, how often, and what that may cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.checkin.answers import DeviceRefused
from services.checkin.journal.last_seen import MOST_REFUSED
from services.checkin.refusals.record import (
    AT_MOST_EVERY,
    LINES,
    MOST_HELD,
    RefusalLog,
    RefusedSender,
    plain,
)
from services.checkin.refusals.senders import Senders
from shared.domain.enrollment import Refusal
from shared.domain.errors import StoreUnavailable
from shared.telemetry.metrics import Reason
from tests.support.checkin_world import Device, World
from tests.support.fakes.queue import undisturbed

MAC = RefusedSender("192.0.2.1", "cert-MAC", "CN=mac", is_proven=True)
STRANGER = RefusedSender("192.0.2.9", "cert-of-a-stranger", "CN=mac")
SECOND = timedelta(seconds=1)
MINUTE = AT_MOST_EVERY


class Rig:
    """A replica with devices that are enrolled, and its log of refusals."""

    def __init__(self) -> None:
        self.world = World()
        self.reads: list[str] = []
        self.lines: list[dict[str, Any]] = []

    async def enroll(self, *devices: str) -> None:
        self.replica = await self.world.replica()
        for device in devices:
            await Device(device, f"cert-{device}").enroll(self.replica)
        self.refusals = RefusalLog(self.replica.senders, self.replica.seen, self.world.clock)
        self.world.enrollments.before = self._read

    async def _read(self, operation: str) -> None:
        self.reads.append(operation)

    def forget(self) -> None:
        """As a process that has just started."""
        senders = Senders(self.world.enrollments)
        self.refusals = RefusalLog(senders, self.replica.seen, self.world.clock)

    def refuse(
        self,
        sender: RefusedSender = MAC,
        detail: str = "no magic",
        status: int = 400,
        count: int = 1,
    ) -> None:
        for _ in range(count):
            self.refusals.note(sender, status, Reason.PLIST, detail, "/mdm/checkin")

    @contextmanager
    def _logged(self) -> Iterator[None]:
        with capture_logs() as lines:
            yield
        self.lines = [dict(line) for line in lines]

    async def tell(self, after: timedelta = timedelta()) -> list[dict[str, Any]]:
        self.world.clock.advance(after)
        with self._logged():
            await self.refusals.flush()
        return self.lines

    def end(self) -> list[dict[str, Any]]:
        with self._logged():
            self.refusals.end()
        return self.lines

    async def recorded(self, device: str = "MAC") -> list[tuple[str, int]]:
        await self.replica.seen.flush()
        return [
            (each.detail, each.count) for each in self.world.enrollments.records[device].refusals
        ]


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    await rig.enroll("MAC", "PAD")
    return rig


async def test_the_line_names_the_device_of_a_bound_certificate(rig: Rig) -> None:
    rig.refuse()

    assert await rig.tell() == [
        {
            "event": "device_refused",
            "log_level": "info",
            "path": "/mdm/checkin",
            "status": 400,
            "reason": "no magic",
            "kind": "plist",
            "count": 1,
            "address": "192.0.2.1",
            "device": "MAC",
        }
    ]
    assert rig.reads == []


async def test_what_is_not_proven_is_claimed(rig: Rig) -> None:
    rig.refuse(STRANGER)
    rig.refuse(RefusedSender("192.0.2.10"))

    told = {line["address"]: line for line in await rig.tell()}

    assert [told[each]["claimed"] for each in ("192.0.2.9", "192.0.2.10")] == [True, True]
    assert told["192.0.2.9"]["certificate_sha256"] == "cert-of-a-stranger"
    assert told["192.0.2.9"]["subject"] == "CN=mac"
    assert "certificate_sha256" not in told["192.0.2.10"]
    assert not any("device" in line for line in told.values())
    assert rig.reads == []


async def test_whoever_claims_a_devices_certificate_is_not_taken_for_it(rig: Rig) -> None:
    rig.refuse(RefusedSender("192.0.2.9", MAC.certificate, "CN=mac"), count=5)
    rig.refuse()

    told = await rig.tell()

    assert [(line.get("device"), line["count"]) for line in told] == [("MAC", 1), (None, 5)]
    assert await rig.recorded() == [("no magic", 1)]


async def test_a_sender_has_one_line_a_minute_with_a_count(rig: Rig) -> None:
    rig.refuse(count=3)
    assert [line["count"] for line in await rig.tell()] == [3]
    rig.refuse(count=2)

    assert await rig.tell(MINUTE - SECOND) == []
    rig.refuse(detail="another")
    [line] = await rig.tell(SECOND)

    assert (line["count"], line["reason"]) == (3, "another")
    assert await rig.tell(MINUTE) == []


async def test_a_device_that_nobody_here_knows_is_looked_up_after_its_answer(rig: Rig) -> None:
    rig.forget()
    rig.refuse(count=2)
    assert rig.reads == []

    [line] = await rig.tell()

    assert (line["device"], rig.reads) == ("MAC", ["holders", "load"])
    assert await rig.recorded() == [("no magic", 2)]


async def test_a_certificate_of_nobody_is_looked_up_once_a_minute(rig: Rig) -> None:
    unbound = RefusedSender("192.0.2.1", "cert-of-nobody", is_proven=True)

    for _ in range(30):
        rig.refuse(unbound, count=10)
        await rig.tell(SECOND)

    assert rig.reads.count("holders") == 1


@pytest.mark.parametrize("since", ["it was refused", "it was silent", "the process started"])
async def test_a_certificate_that_was_replaced_names_no_device(rig: Rig, since: str) -> None:
    await Device("MAC", "cert-next").enroll(rig.replica)
    if since == "it was refused":
        await rig.replica.serve(Device("MAC", "cert-MAC").idle())
    elif since == "the process started":
        rig.forget()
    rig.refuse()

    [line] = await rig.tell()

    assert (line["claimed"], line["certificate_sha256"]) == (True, "cert-MAC")
    assert await rig.recorded() == []


async def test_another_device_that_is_claimed_takes_no_ones_name(rig: Rig) -> None:
    await rig.replica.serve(Device("PAD", "cert-MAC").idle())
    rig.refuse()

    [line] = await rig.tell()

    assert line["device"] == "MAC"


async def test_a_device_whose_bound_certificate_has_expired_is_named(rig: Rig) -> None:
    other = await rig.world.replica()
    [answer] = await other.serve(Device("MAC", "cert-MAC", is_expired=True).idle())

    assert isinstance(answer, DeviceRefused)
    assert other.senders.device_of("cert-MAC") == "MAC"


async def test_while_the_store_is_away_a_line_names_the_certificate(rig: Rig) -> None:
    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    rig.forget()
    rig.world.enrollments.before = away
    rig.refuse()

    [line] = await rig.tell()

    assert (line["claimed"], line["certificate_sha256"]) == (True, "cert-MAC")


async def test_ten_lines_a_second_proven_senders_first(rig: Rig) -> None:
    for number in range(LINES * 2):
        rig.refuse(RefusedSender(f"192.0.2.{number}"))
    rig.refuse()

    first, second, third = [await rig.tell(SECOND) for _ in range(3)]

    assert [len(first), len(second), len(third)] == [LINES, LINES, 1]
    assert first[0]["device"] == "MAC"


async def test_any_number_of_strangers_costs_little_and_each_refusal_is_counted(rig: Rig) -> None:
    for number in range(20_000):
        rig.refuse(RefusedSender(f"address {number}"))
    rig.refuse()
    assert len(rig.refusals._held) <= MOST_HELD

    lines = [line for _ in range(40) for line in await rig.tell(SECOND)]

    assert rig.reads == []
    assert "MAC" in [line.get("device") for line in lines]
    assert [line["event"] for line in lines].count("refusals_not_logged") == 1
    assert sum(line["count"] for line in lines) == 20_001


async def test_an_ipv6_network_is_one_sender(rig: Rig) -> None:
    for number in range(5):
        rig.refuse(RefusedSender(f"2001:db8::{number}"))

    [line] = await rig.tell()

    assert (line["count"], line["address"]) == (5, "2001:db8::4")


async def test_the_end_tells_what_was_counted(rig: Rig) -> None:
    rig.refuse()
    await rig.tell()
    rig.refuse(count=4)
    for number in range(MOST_HELD):
        rig.refuse(RefusedSender(f"address {number}"))

    lines = rig.end()

    assert [line["count"] for line in lines if line.get("device") == "MAC"] == [4]
    assert sum(line["count"] for line in lines) == 4 + MOST_HELD
    assert rig.end() == []


async def test_an_end_beside_a_look_up_tells_each_line_once(rig: Rig) -> None:
    async def end(operation: str) -> None:
        rig.refusals.end()

    rig.forget()
    rig.refuse()
    rig.world.enrollments.before = end

    assert [line["count"] for line in await rig.tell()] == [1]


async def test_the_record_keeps_each_kind_of_refusal_within_the_minute(rig: Rig) -> None:
    for detail in ("first", "second", "first"):
        rig.refuse(detail=detail)
    assert await rig.recorded() == [("first", 2), ("second", 1)]

    rig.world.clock.advance(SECOND)
    rig.refuse(detail="second")

    assert await rig.recorded() == [("second", 2), ("first", 2)]


async def test_what_we_cannot_do_now_is_no_refusal_of_the_device(rig: Rig) -> None:
    rig.refuse(status=503, detail="the store is away")

    assert [line["status"] for line in await rig.tell()] == [503]
    assert await rig.recorded() == []


async def test_refusals_wait_for_a_store_that_is_away(rig: Rig) -> None:
    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    rig.world.refusals.before = away
    rig.refuse(detail="first")
    with pytest.raises(StoreUnavailable):
        await rig.replica.seen.flush()
    rig.refuse(detail="second")
    rig.refuse(detail="first")
    with pytest.raises(StoreUnavailable):
        await rig.replica.seen.flush()
    rig.world.refusals.before = undisturbed

    assert await rig.recorded() == [("first", 2), ("second", 1)]


async def test_refusals_of_a_full_record_cost_no_other_its_own(rig: Rig) -> None:
    rig.world.enrollments.full.add("MAC")
    rig.refuse()
    rig.refuse(RefusedSender("192.0.2.2", "cert-PAD", is_proven=True))

    with capture_logs() as lines:
        assert await rig.recorded("PAD") == [("no magic", 1)]

    assert [(line["event"], line["device"]) for line in lines] == [("refusals_not_kept", "MAC")]


async def test_the_refusals_that_wait_to_be_written_are_bounded(rig: Rig) -> None:
    for number in range(MOST_REFUSED + 10):
        rig.replica.seen.refused(f"D{number}", Refusal(rig.world.clock.now(), "plist", "", "/mdm"))

    assert len(rig.replica.seen._refusals) == MOST_REFUSED


def test_a_text_is_cut_and_its_control_characters_are_escaped() -> None:
    assert plain("CN=mac\n{}\x1b[2J\u202e\ud800 ä", 300) == r"CN=mac\n{}\x1b[2J\u202e\ud800 ä"
    assert plain("x" * 400, 300) == "x" * 300
