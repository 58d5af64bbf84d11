"""Records from documents are what the constructor of their kind would make."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from shared.domain.command import Command, EntryState, LateAnswer, QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, Inventory, Waiting
from shared.domain.identity import BoundBy, DeviceCertificate, Identity
from shared.domain.job import Progress
from shared.domain.versions import is_known
from shared.storage.records import STORED_AS, fields_of, record

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ENTRY = QueueEntry("e", "d", "u", "hash", "DeviceInformation", None, "order")
STORED = {
    "enrollment": "e",
    "device": "d",
    "command_uuid": "u",
    "command": "hash",
    "request_type": "DeviceInformation",
    "generation": None,
    "order": "order",
}


def test_a_field_that_is_missing_has_its_default() -> None:
    assert record(QueueEntry, STORED | {"unknown": 1}) == ENTRY


def test_a_default_that_is_made_is_made_for_each_record() -> None:
    one, other = record(Progress, {"queued": 2}), record(Progress, {"queued": 2})

    assert one == other == Progress(queued=2)
    assert one.warnings is not other.warnings


def test_values_are_decoded_by_the_types_of_their_fields() -> None:
    late = {"state": "error", "event_id": "id", "at": NOON}

    found = record(QueueEntry, STORED | {"state": "sent", "late_answer": late, "counted": True})

    assert found.state is EntryState.SENT
    assert found.late_answer == LateAnswer(EntryState.ERROR, "id", NOON)
    assert found.is_counted


def test_null_stays_null() -> None:
    assert record(QueueEntry, STORED | {"late_answer": None, "moved": None}) == ENTRY


def test_a_state_of_a_newer_version_is_known_as_such() -> None:
    found = record(QueueEntry, STORED | {"state": "lost"})

    assert found.state == "lost"
    assert not is_known(found.state)


def test_given_values_win_in_any_order_of_the_fields() -> None:
    key = EnrollmentKey("d", "d")
    document = {"status": "enrolled", "waiting": {"count": 2}, "push": {"topic": "t"}, "key": "no"}

    assert record(Enrollment, document, push=None, key=key) == Enrollment(
        key, EnrollmentStatus.ENROLLED, waiting=Waiting(count=2)
    )


def test_a_document_without_a_field_that_has_no_default_is_refused() -> None:
    with pytest.raises(KeyError, match="enrollment"):
        record(QueueEntry, {name: value for name, value in STORED.items() if name != "enrollment"})


def test_a_value_for_no_field_is_refused() -> None:
    with pytest.raises(TypeError):
        record(Waiting, {}, counts=1)


def test_a_record_is_of_its_kind() -> None:
    found = record(Command, {"_id": "h", "uuid": "u", "request_type": "r"}, plist=b"secret")

    assert type(found) is Command
    assert "secret" not in repr(found)
    assert hash(found) == hash(Command("h", "u", "r", b"secret"))
    with pytest.raises(FrozenInstanceError):
        found.uuid = "other"  # type: ignore[misc]


def test_what_is_written_is_read_again() -> None:
    certificate = DeviceCertificate("sha", not_after=NOON, is_expired=True)
    identity = Identity(certificate, NOON, BoundBy.RENEWAL, True, {"a.b": "$c"})

    assert record(Identity, fields_of(identity)) == identity
    assert record(Inventory, fields_of(Inventory(model="m"))) == Inventory(model="m")


def test_no_kind_needs_more_than_its_fields() -> None:
    for kind in (*STORED_AS, Enrollment, EnrollmentKey, Inventory, Waiting):
        assert not hasattr(kind, "__post_init__"), kind
