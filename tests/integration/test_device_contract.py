"""What devices are answered, over HTTP: the rows of MicroMDM's contract that end in 200 (and 410)."""

import base64
import plistlib

import httpx
import pytest

from tests.integration.whole import Device, Whole, given, new_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHARED_IPAD_USER = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
EMPTY_DATA = b""


def is_empty(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.content) == (200, b"")


async def listed(device: Device) -> dict[str, object]:
    body = {"filter_udid": [device.id]}
    answer = await device.whole.api("POST", "/v1/devices", body)
    [found] = answer.json()["devices"]
    return dict(found)


# --- enrolling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["com.apple.mgmt.External.test", ""], ids=["topic", "no topic"])
async def test_authenticate_and_token_update_are_answered_empty_and_make_events(
    whole: Whole, topic: str
) -> None:
    device = whole.device()

    answers = [await device.authenticate(Topic=topic), await device.token_update(Topic=topic)]

    assert all(map(is_empty, answers))
    events = await whole.events_of(device.id, 2)
    assert [event["topic"] for event in events] == ["mdm.Authenticate", "mdm.TokenUpdate"]
    assert all(event["checkin_event"]["udid"] == device.id for event in events)


async def test_a_device_is_enrolled_from_its_first_token_update_on(whole: Whole) -> None:
    device = whole.device()

    await device.authenticate()
    before = (await listed(device), await whole.api("GET", f"/push/{device.id}"))
    await device.token_update()
    after = (await listed(device), await whole.api("GET", f"/push/{device.id}"))

    assert (before[0]["enrollment_status"], before[1].status_code) == (False, 409)
    assert (after[0]["enrollment_status"], after[1].status_code) == (True, 200)


async def test_a_command_of_the_time_before_the_token_update_is_delivered_later(
    whole: Whole,
) -> None:
    device = whole.device()
    await device.authenticate()

    command = await device.queue()
    await device.token_update()

    assert given(await device.connect()) == command


async def test_authenticate_empties_the_queue(whole: Whole) -> None:
    device = await whole.enrolled()
    await device.queue()

    await device.authenticate()

    assert await device.open_commands() == []
    assert given(await device.connect()) is None


async def test_authenticate_binds_the_certificate_of_a_user_enrollment_too(whole: Whole) -> None:
    device = await whole.enrolled(EnrollmentID=new_id())
    other = Device(whole, whole.authority.issue(), device.ids)

    assert (await other.connect()).status_code == 400
    assert is_empty(await device.connect())


async def test_a_new_certificate_enrolls_anew_and_the_old_one_is_not_heard_any_more(
    whole: Whole,
) -> None:
    device = await whole.enrolled()
    renewed = Device(whole, whole.authority.issue(), device.ids)

    assert is_empty(await renewed.authenticate())

    assert is_empty(await renewed.connect())
    assert (await device.connect()).status_code == 400
    assert (await device.authenticate()).status_code == 400


# --- channels ----------------------------------------------------------------------------------------


async def test_a_user_channel_has_its_own_token_and_commands(whole: Whole) -> None:
    device = await whole.enrolled()
    user = device.user(UserID=new_id(), UserShortName="ada", UserLongName="Ada")

    assert is_empty(await user.token_update())
    command = await user.queue()

    assert await whole.pushed(user.token) == {"mdm": f"magic-{device.id}"}
    assert given(await device.connect()) is None
    assert given(await user.connect()) == command
    events = await whole.events_of(device.id, 5)
    assert events[2]["checkin_event"]["udid"] == device.id


async def test_a_user_enrollment_has_its_enrollment_id_in_events_instead_of_a_udid(
    whole: Whole,
) -> None:
    device = await whole.enrolled(EnrollmentID=new_id())
    command = await device.queue()

    answer = await device.connect()

    assert given(answer) == command
    events = await whole.events_of(device.id, 3)
    bodies = [event.get("checkin_event") or event["acknowledge_event"] for event in events]
    assert [next(iter(body)) for body in bodies] == ["enrollment_id"] * 3
    assert all(body["enrollment_id"] == device.id and "udid" not in body for body in bodies)


async def test_a_user_of_a_user_enrollment_has_a_channel_of_their_own(whole: Whole) -> None:
    device = await whole.enrolled(EnrollmentID=new_id())
    user = device.user(EnrollmentUserID=new_id())

    assert is_empty(await user.token_update())
    command = await user.queue()

    assert given(await device.connect()) is None
    assert given(await user.connect()) == command


async def test_users_of_a_shared_ipad_are_told_apart_by_their_short_names(whole: Whole) -> None:
    device = await whole.enrolled()
    ada = device.user(UserID=SHARED_IPAD_USER, UserShortName="ada@example.com")
    bob = device.user(UserID=SHARED_IPAD_USER, UserShortName="bob@example.com")
    for user in (ada, bob):
        assert is_empty(await user.token_update())

    body = {"udid": f"{device.id}:ada@example.com", "request_type": "ProfileList"}
    queued = await whole.api("POST", "/v1/commands", body)

    assert queued.status_code == 201
    assert given(await bob.connect()) is None
    assert given(await ada.connect()) == queued.json()["payload"]["command_uuid"]


async def test_user_authenticate_is_410_and_makes_no_event(whole: Whole) -> None:
    device = await whole.enrolled()
    user = device.user(UserID=new_id())
    journaled = whole.journaled()

    answer = await user.checkin("UserAuthenticate")

    assert (answer.status_code, answer.content) == (410, b"")
    assert whole.journaled() == journaled


# --- leaving -----------------------------------------------------------------------------------------


async def test_check_out_ends_pushes_and_leaves_queue_and_connects(whole: Whole) -> None:
    device = await whole.enrolled()
    command = await device.queue()

    assert is_empty(await device.checkin("CheckOut"))

    assert (await listed(device))["enrollment_status"] is False
    assert (await whole.api("GET", f"/push/{device.id}")).status_code == 409
    assert await device.open_commands() == [command]
    assert (await device.connect()).status_code == 200
    events = await whole.events_of(device.id, 4)
    assert [event["topic"] for event in events[2:]] == ["mdm.CheckOut", "mdm.Connect"]


async def test_a_removed_device_that_speaks_again_is_listed_again(whole: Whole) -> None:
    device = await whole.enrolled()
    await whole.api("DELETE", "/v1/devices", {"Opts": {"udids": [device.id]}})

    assert is_empty(await device.connect())

    assert (await listed(device))["udid"] == device.id
    assert (await whole.events_of(device.id, 3))[2]["topic"] == "mdm.Connect"


async def test_a_removed_device_stays_bound_to_its_certificate(whole: Whole) -> None:
    device = await whole.enrolled()
    await whole.api("DELETE", "/v1/devices", {"Opts": {"udids": [device.id]}})
    other = await whole.enrolled()

    thief = Device(whole, other.identity, device.ids)

    assert (await thief.authenticate()).status_code == 400
    assert (await thief.connect()).status_code == 400


async def test_a_blocked_device_hears_401_at_connect_and_is_served_at_checkin(
    whole: Whole,
) -> None:
    device = await whole.enrolled()
    await whole.api("POST", f"/v1/devices/{device.id}/block")
    journaled = whole.journaled()

    blocked = await device.connect()

    assert (blocked.status_code, blocked.content) == (401, b"")
    assert whole.journaled() == journaled
    assert is_empty(await device.token_update())
    await whole.api("POST", f"/v1/devices/{device.id}/unblock")
    assert is_empty(await device.connect())


@pytest.mark.parametrize("path", ["/mdm", "/checkin"])
async def test_where_one_url_takes_both_kinds_a_blocked_devices_401_follows_the_message(
    whole: Whole, path: str
) -> None:
    device = await whole.enrolled()
    idle = plistlib.dumps({"Status": "Idle", **device.ids})
    token_update = plistlib.dumps(
        {"MessageType": "TokenUpdate", "Token": b"new", "PushMagic": "m", **device.ids}
    )
    await whole.api("POST", f"/v1/devices/{device.id}/block")

    blocked = await device.send(path, idle)

    assert (blocked.status_code, blocked.content) == (401, b"")
    assert is_empty(await device.send(path, token_update))
    await whole.api("POST", f"/v1/devices/{device.id}/unblock")
    assert is_empty(await device.send(path, idle))


# --- bootstrap tokens --------------------------------------------------------------------------------


async def test_a_bootstrap_token_is_kept_and_given_back(whole: Whole) -> None:
    device = await whole.enrolled()

    none_yet = await device.checkin("GetBootstrapToken")
    kept = await device.checkin("SetBootstrapToken", BootstrapToken=b"bootstrap")
    found = await device.checkin("GetBootstrapToken")

    assert is_empty(kept)
    assert plistlib.loads(none_yet.content) == {"BootstrapToken": EMPTY_DATA}
    assert plistlib.loads(found.content) == {"BootstrapToken": b"bootstrap"}
    assert found.headers["content-type"] == "application/xml; charset=utf-8"
    topics = [event["topic"] for event in await whole.events_of(device.id, 5)]
    assert topics[2:] == [
        "mdm.GetBootstrapToken",
        "mdm.SetBootstrapToken",
        "mdm.GetBootstrapToken",
    ]


# --- connecting --------------------------------------------------------------------------------------


async def test_the_oldest_command_comes_first_as_a_plist(whole: Whole) -> None:
    device = await whole.enrolled()
    first, second = await device.queue(), await device.queue()

    answer = await device.connect()

    assert answer.headers["content-type"] == "application/xml; charset=utf-8"
    assert plistlib.loads(answer.content) == {
        "CommandUUID": first,
        "Command": {"RequestType": "ProfileList"},
    }
    assert await device.open_commands() == [first, second]


@pytest.mark.parametrize("status", ["Acknowledged", "Error", "CommandFormatError"])
async def test_an_answer_closes_its_command_and_fetches_the_next(whole: Whole, status: str) -> None:
    device = await whole.enrolled()
    first, second = await device.queue(), await device.queue()
    await device.connect()

    answer = await device.connect(status, CommandUUID=first)
    again = await device.connect(status, CommandUUID=first)

    assert given(answer) == given(again) == second
    assert await device.open_commands() == [second]
    events = [
        event["acknowledge_event"]
        for event in await whole.events_of(device.id, 5)
        if event["topic"] == "mdm.Connect"
    ]
    assert [(event["status"], event.get("command_uuid")) for event in events] == [
        ("Idle", None),
        (status, first),
        (status, first),
    ]


async def test_a_report_on_a_command_that_nobody_knows_is_an_event_and_changes_nothing(
    whole: Whole,
) -> None:
    device = await whole.enrolled()
    command = await device.queue()

    answer = await device.connect(
        "Acknowledged", CommandUUID="41d35de3-a343-4146-ba4b-0069bae2a54f"
    )

    assert given(answer) == command
    assert await device.open_commands() == [command]
    assert (await whole.events_of(device.id, 3))[2]["topic"] == "mdm.Connect"


async def test_not_now_is_offered_again_from_the_next_idle_on(whole: Whole) -> None:
    device = await whole.enrolled()
    first, second = await device.queue(), await device.queue()
    await device.connect()

    assert given(await device.connect("NotNow", CommandUUID=first)) == second
    assert given(await device.connect("Acknowledged", CommandUUID=second)) is None
    assert given(await device.connect()) == first


async def test_connecting_again_before_answering_gives_the_same_command(whole: Whole) -> None:
    device = await whole.enrolled()
    first, _ = await device.queue(), await device.queue()

    assert [given(await device.connect()) for _ in range(3)] == [first] * 3


async def test_the_event_holds_the_exact_bytes_that_were_sent(whole: Whole) -> None:
    device = await whole.enrolled()
    binary = plistlib.dumps({"Status": "Idle", **device.ids}, fmt=plistlib.FMT_BINARY)

    assert is_empty(await device.send("/mdm/connect", binary))

    event = (await whole.events_of(device.id, 3))[2]["acknowledge_event"]
    assert base64.b64decode(event["raw_payload"]) == binary


# --- paths -------------------------------------------------------------------------------------------


async def test_doubled_slashes_are_one(whole: Whole) -> None:
    device = whole.device()
    body = plistlib.dumps({"MessageType": "Authenticate", **device.ids})

    assert is_empty(await device.send("//mdm//checkin", body))
