"""Last contacts, kept in memory and written in batches."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest
import structlog

from services.checkin.journal.last_seen import BATCH, LastSeen
from shared.domain.enrollment import Refusal
from shared.domain.errors import StoreUnavailable, TooLarge
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.enrollments import FakeEnrollments

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FULL = "FULL"


class Contacts(FakeEnrollments):
    """Notes what is written; the record FULL holds no more, and `is_away` means the store."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, datetime] = {}
        self.is_away = False

    async def seen(self, times: Mapping[str, datetime]) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        if FULL in times:
            raise TooLarge("the record is full")
        self.written |= times


class KeptRefusals:
    def __init__(self) -> None:
        self.added: dict[str, Sequence[Refusal]] = {}

    async def add(self, refusals: Mapping[str, Sequence[Refusal]]) -> None:
        self.added |= refusals


async def test_a_record_that_cannot_hold_its_contact_costs_no_other_its_own() -> None:
    enrollments, refusals = Contacts(), KeptRefusals()
    seen = LastSeen(enrollments, refusals, FakeClock())
    others = [f"D{number}" for number in range(BATCH + 100)]
    for enrollment in (FULL, *others):
        seen.note(enrollment, NOW)
    seen.refused("D1", Refusal(NOW, "plist", "broken", "/mdm/checkin"))

    with structlog.testing.capture_logs() as lines:
        await seen.flush()

    assert [line["event"] for line in lines] == ["last_seen_not_kept"]
    assert enrollments.written.keys() == set(others)
    assert refusals.added.keys() == {"D1"}
    enrollments.written.clear()
    await seen.flush()
    assert not enrollments.written


async def test_what_a_store_that_is_away_did_not_take_is_kept() -> None:
    enrollments = Contacts()
    seen = LastSeen(enrollments, KeptRefusals(), FakeClock())
    seen.note("MAC", NOW)
    enrollments.is_away = True
    with pytest.raises(StoreUnavailable):
        await seen.flush()
    enrollments.is_away = False

    await seen.flush()

    assert enrollments.written == {"MAC": NOW}
