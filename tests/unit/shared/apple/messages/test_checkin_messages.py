"""Check-in messages: complete and typed, or refused."""

import base64
import plistlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.apple.messages.checkin import (
    Authenticate,
    CheckinMessage,
    CheckOut,
    GetBootstrapToken,
    SetBootstrapToken,
    TokenUpdate,
    Unsupported,
    UserAuthenticate,
    bootstrap_token_answer,
    parse_checkin,
)
from shared.apple.messages.keys import enrollment_key
from shared.domain.enrollment import SHARED_IPAD_USER, EnrollmentKey, Inventory
from shared.domain.errors import BadRequest
from shared.domain.event import EXTRA_TOPICS, Topic

SAMPLES = Path(__file__).parents[4] / "contract" / "samples"
UDID = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"
KEY = EnrollmentKey(id=UDID, device=UDID, udid=UDID)
TOPIC = "com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04"
USER = "11111111-2222-3333-4444-555555555555"


def read(message_type: str, **keys: Any) -> CheckinMessage:
    return parse_checkin(plistlib.dumps({"MessageType": message_type, "UDID": UDID} | keys))


def token_update(**keys: Any) -> CheckinMessage:
    return read("TokenUpdate", **({"Token": b"t" * 32, "PushMagic": "magic"} | keys))


def test_the_guides_authenticate_is_read() -> None:
    message = parse_checkin((SAMPLES / "guide_authenticate.plist").read_bytes())

    assert message == Authenticate(
        key=KEY,
        topic=TOPIC,
        inventory=Inventory(
            serial_number="C04W00D3HTD0",
            model="MacBookPro14,3",
            model_name="MacBook Pro",
            product_name="MacBookPro14,3",
            device_name="HostName",
            os_version="10.13.6",
            build_version="17G65",
        ),
    )


def test_the_guides_token_update_is_read() -> None:
    message = parse_checkin((SAMPLES / "guide_token_update.plist").read_bytes())

    assert message == TokenUpdate(
        key=KEY,
        topic=TOPIC,
        token=base64.b64decode("c3FyHWhjG3tmSA55LFFIQg=="),
        push_magic="728F8670-4934-4A30-BADF-7B43C261FC14",
    )


def test_the_guides_check_out_is_read() -> None:
    message = parse_checkin((SAMPLES / "guide_check_out.plist").read_bytes())

    assert message == CheckOut(KEY)


def test_a_token_update_gives_all_that_a_push_needs() -> None:
    message = token_update(Topic=TOPIC, UnlockToken=b"unlock", AwaitingConfiguration=True)

    assert message == TokenUpdate(KEY, TOPIC, b"t" * 32, "magic", b"unlock", True)


@pytest.mark.parametrize("keys", [{}, {"Topic": ""}])
def test_an_empty_topic_is_accepted(keys: dict[str, str]) -> None:
    message = token_update(**keys)

    assert isinstance(message, TokenUpdate)
    assert message.topic == ""


@pytest.mark.parametrize(
    "keys",
    [
        {"Token": b""},
        {"Token": "text"},
        {"Token": b"t" * 5000},
        {"PushMagic": ""},
        {"PushMagic": b"magic"},
        {"PushMagic": "a\nb"},
        {"UnlockToken": "text"},
        {"UnlockToken": b"u" * 70_000},
        {"AwaitingConfiguration": "false"},
        {"Topic": 5},
        {"Topic": "a\nb"},
        {"UDID": "A:B"},
        {"UDID": "A\nB"},
        {"UDID": "A" * 257},
        {"UDID": b"A"},
        {"UserID": 5},
        {"UserID": SHARED_IPAD_USER},
    ],
)
def test_a_token_update_with_an_unusable_key_is_refused(keys: dict[str, Any]) -> None:
    name = next(iter(keys)) if keys.get("UserID") != SHARED_IPAD_USER else "UserShortName"

    with pytest.raises(BadRequest, match=f"^{name}: "):
        token_update(**keys)


@pytest.mark.parametrize("message_type", ["", "Connect", "authenticate", "X" * 500])
def test_an_unknown_message_type_is_refused(message_type: str) -> None:
    with pytest.raises(BadRequest, match=r"^MessageType: "):
        read(message_type)


def test_a_message_without_a_type_is_refused() -> None:
    with pytest.raises(BadRequest, match="MessageType: missing"):
        parse_checkin(plistlib.dumps({"UDID": UDID}))


def test_a_message_of_nobody_is_refused() -> None:
    with pytest.raises(BadRequest, match="UDID: missing"):
        parse_checkin(plistlib.dumps({"MessageType": "CheckOut", "UDID": "", "EnrollmentID": ""}))


def test_an_authenticate_of_a_user_channel_is_refused() -> None:
    with pytest.raises(BadRequest, match="device channel"):
        read("Authenticate", UserID=USER)


def test_bootstrap_tokens_are_read() -> None:
    assert read("SetBootstrapToken", BootstrapToken=b"x") == SetBootstrapToken(KEY, b"x")
    assert read("SetBootstrapToken") == SetBootstrapToken(KEY, b"")
    assert read("GetBootstrapToken") == GetBootstrapToken(KEY)


def test_messages_that_make_no_event_are_told_apart() -> None:
    user_key = EnrollmentKey(id=f"{UDID}:{USER}", device=UDID, udid=UDID, user=USER)

    assert read("UserAuthenticate", UserID=USER) == UserAuthenticate(user_key)
    assert read("DeclarativeManagement") == Unsupported(KEY, "DeclarativeManagement")
    assert read("GetToken") == Unsupported(KEY, "GetToken")
    assert UserAuthenticate.event is None
    assert Unsupported.event is None


def test_each_message_names_its_topic() -> None:
    events = {
        kind.event
        for kind in (Authenticate, TokenUpdate, CheckOut, SetBootstrapToken, GetBootstrapToken)
    }

    assert events == set(Topic) - EXTRA_TOPICS - {Topic.CONNECT}


def test_secrets_do_not_show() -> None:
    message = token_update(UnlockToken=b"unlock")

    assert not {"tttt", "magic", "unlock"} & set(repr(message).replace("'", " ").split())
    assert "xyz" not in repr(SetBootstrapToken(KEY, b"xyz"))


@pytest.mark.parametrize("token", [None, b"", b"token"])
def test_the_answer_to_get_bootstrap_token_is_a_plist(token: bytes | None) -> None:
    answer = bootstrap_token_answer(token)

    assert answer.startswith(b"<?xml")
    assert plistlib.loads(answer) == {"BootstrapToken": token or b""}


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"UDID": "U"}, EnrollmentKey("U", "U", udid="U")),
        ({"UDID": "U", "UserID": "P"}, EnrollmentKey("U:P", "U", udid="U", user="P")),
        ({"EnrollmentID": "E"}, EnrollmentKey("E", "E", enrollment_id="E")),
        (
            {"EnrollmentID": "E", "EnrollmentUserID": "P"},
            EnrollmentKey("E:P", "E", enrollment_id="E", user="P"),
        ),
        (
            {"UDID": "U", "UserID": SHARED_IPAD_USER, "UserShortName": "ann"},
            EnrollmentKey("U:ann", "U", udid="U", user="ann"),
        ),
        (
            {"UDID": "U", "UserID": SHARED_IPAD_USER.lower(), "UserShortName": "ann"},
            EnrollmentKey("U:ann", "U", udid="U", user="ann"),
        ),
        (
            {"UDID": "U", "UserID": "P", "UserShortName": "ann"},
            EnrollmentKey("U:P", "U", "U", None, "P"),
        ),
        ({"UDID": "U", "EnrollmentID": "E"}, EnrollmentKey("U", "U", udid="U")),
        ({"UDID": "", "EnrollmentID": "E", "UserID": "P"}, EnrollmentKey("E", "E", None, "E")),
        ({"UDID": "U", "UserID": ""}, EnrollmentKey("U", "U", udid="U")),
    ],
)
def test_an_enrollment_is_named_after_its_device_and_user(
    message: dict[str, str], key: EnrollmentKey
) -> None:
    assert enrollment_key(message) == key


IDS = st.text(st.sampled_from("AB:-"), min_size=1, max_size=4)


@given(one=st.tuples(IDS, IDS | st.none()), other=st.tuples(IDS, IDS | st.none()))
def test_two_senders_never_share_an_id(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    ids = []
    for udid, user in (one, other):
        try:
            ids.append(enrollment_key({"UDID": udid, "UserID": user}).id)
        except BadRequest:
            return

    assert (ids[0] == ids[1]) == (one == other)
