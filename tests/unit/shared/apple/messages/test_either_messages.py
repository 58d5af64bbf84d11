"""One URL for both kinds of message: MessageType makes it a check-in, Status a connect."""

import plistlib
from typing import Any

import pytest

from shared.apple.messages.checkin import parse_checkin
from shared.apple.messages.connect import parse_connect, parse_either
from shared.domain.errors import BadRequest


def body(**keys: Any) -> bytes:
    return plistlib.dumps({"UDID": "U"} | keys)


CHECKINS = {
    "Authenticate": body(MessageType="Authenticate", Topic="t"),
    "TokenUpdate": body(MessageType="TokenUpdate", Token=b"t", PushMagic="m"),
    "CheckOut": body(MessageType="CheckOut"),
    "UserAuthenticate": body(MessageType="UserAuthenticate", UserID="anna"),
    "DeclarativeManagement": body(MessageType="DeclarativeManagement"),
}
CONNECTS = {
    "Idle": body(Status="Idle"),
    "Acknowledged": body(Status="Acknowledged", CommandUUID="c1"),
}


@pytest.mark.parametrize("message", CHECKINS.values(), ids=CHECKINS)
def test_a_message_with_a_type_is_the_check_in_that_it_is_elsewhere(message: bytes) -> None:
    assert parse_either(message) == parse_checkin(message)


@pytest.mark.parametrize("message", CONNECTS.values(), ids=CONNECTS)
def test_a_message_with_a_status_is_the_connect_that_it_is_elsewhere(message: bytes) -> None:
    assert parse_either(message) == parse_connect(message)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"MessageType": "CheckOut", "Status": "Idle"},
        {"MessageType": "TokenUpdate", "Token": b"t", "PushMagic": "m", "Status": ""},
    ],
)
def test_a_message_that_is_both_or_neither_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="MessageType or Status"):
        parse_either(body(**keys))


@pytest.mark.parametrize(
    "keys", [{"MessageType": "Hello"}, {"MessageType": 1}, {"Status": "Busy"}, {"Status": 1}]
)
def test_an_unusable_message_is_refused_by_the_reader_of_its_kind(keys: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=f"^{next(iter(keys))}: "):
        parse_either(body(**keys))
