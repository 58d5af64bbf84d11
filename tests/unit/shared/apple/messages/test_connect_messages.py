"""Connect messages: a known status, and a command's id with every status but Idle."""

import plistlib
from pathlib import Path
from typing import Any

import pytest

from shared.apple.messages.connect import Connect, Status, parse_connect
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BadRequest
from shared.domain.event import Topic

SAMPLES = Path(__file__).parents[4] / "contract" / "samples"
KEY = EnrollmentKey("U", "U", udid="U")


def read(**keys: Any) -> Connect:
    return parse_connect(plistlib.dumps({"UDID": "U"} | keys))


def test_the_guides_connect_is_read() -> None:
    udid = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"

    message = parse_connect((SAMPLES / "guide_connect.plist").read_bytes())

    assert message == Connect(
        key=EnrollmentKey(udid, udid, udid=udid),
        status=Status.ACKNOWLEDGED,
        command_uuid="41d35de3-a343-4146-ba4b-0069bae2a54f",
    )
    assert message.event is Topic.CONNECT


@pytest.mark.parametrize("keys", [{}, {"CommandUUID": ""}, {"CommandUUID": "stale"}])
def test_idle_reports_no_command(keys: dict[str, str]) -> None:
    assert read(Status="Idle", **keys) == Connect(KEY, Status.IDLE, None)


@pytest.mark.parametrize("status", ["Acknowledged", "Error", "CommandFormatError", "NotNow"])
def test_a_report_names_its_command(status: str) -> None:
    assert read(Status=status, CommandUUID="c1") == Connect(KEY, Status(status), "c1")


@pytest.mark.parametrize("status", ["Acknowledged", "Error", "CommandFormatError", "NotNow"])
@pytest.mark.parametrize(
    "uuid", [{}, {"CommandUUID": ""}, {"CommandUUID": 7}, {"CommandUUID": "a\n"}]
)
def test_a_report_without_a_usable_command_uuid_is_refused(
    status: str, uuid: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest, match=r"^CommandUUID: "):
        read(Status=status, **uuid)


@pytest.mark.parametrize("status", ["", "idle", "Pending", 5, None])
def test_an_unknown_status_is_refused(status: object) -> None:
    keys = {} if status is None else {"Status": status}

    with pytest.raises(BadRequest, match=r"^Status: "):
        read(**keys, CommandUUID="c1")


def test_a_user_channel_reports_for_itself() -> None:
    message = read(Status="Idle", UserID="P", NotOnConsole=False)

    assert message.key == EnrollmentKey("U:P", "U", udid="U", user="P")


def test_a_user_enrollment_reports_by_its_enrollment_id() -> None:
    message = parse_connect(plistlib.dumps({"EnrollmentID": "E", "Status": "Idle"}))

    assert message.key == EnrollmentKey("E", "E", enrollment_id="E")
