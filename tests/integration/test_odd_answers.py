"""Any property list of Apple's kind, over HTTP: it ends its command, and goes out as it was sent."""

import base64

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.whole import Device, Whole, new_id
from tests.integration.whole import given as was_sent
from tests.support.harness.apple_lists import answers

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 60
COMMAND = "c" * 36
"""Stands for the CommandUUID, which is as long."""


def bodies_of(device: Device) -> list[bytes]:
    keys = {"UDID": device.id, "Status": "Acknowledged", "CommandUUID": COMMAND}
    made = list[bytes]()

    @settings(
        max_examples=MANY,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(body=answers(keys))
    def make(body: bytes) -> None:
        made.append(body)

    make()
    return made


def naming(body: bytes, command_uuid: str) -> bytes:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        body = body.replace(COMMAND.encode(encoding), command_uuid.encode(encoding))
    return body


async def test_any_answer_ends_its_command_and_is_delivered_byte_for_byte(whole: Whole) -> None:
    device = await whole.enrolled()
    sent = list[bytes]()

    for made in bodies_of(device):
        command = await device.queue(str(new_id()).lower())
        assert was_sent(await device.connect()) == command
        sent += [b"", naming(made, command)]
        answer = await device.send("/mdm/connect", sent[-1])
        assert (answer.status_code, answer.content) == (200, b"")
        shown = await whole.api("GET", f"/v1/commands/{device.id}/{command}")
        found = shown.json()
        assert (found["state"], found["answer"]["status"]) == ("acknowledged", "Acknowledged")
        has_json = found["answer"]["response"] is not None
        assert has_json == (found["answer"]["response_error"] is None)

    events = (await whole.events_of(device.id, 2 + len(sent)))[2:]
    received = [base64.b64decode(each["acknowledge_event"]["raw_payload"]) for each in events]
    assert len(sent) >= MANY
    assert received[1::2] == sent[1::2]


ODD_COMMANDS = {
    "a blank line before": (b"\n", b""),
    "a BOM before": (b"\xef\xbb\xbf", b""),
    "a NUL behind": (b"", b"\n\x00"),
    "text behind": (b"", b"done"),
}


@pytest.mark.parametrize(("before", "behind"), ODD_COMMANDS.values(), ids=ODD_COMMANDS.keys())
async def test_a_raw_command_is_queued_with_what_stands_around_it(
    whole: Whole, before: bytes, behind: bytes
) -> None:
    device = await whole.enrolled()
    plist = (
        b'<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict><key>Command</key><dict>'
        b"<key>RequestType</key><string>SecurityInfo</string></dict>"
        b"<key>CommandUUID</key><string>raw</string></dict></plist>"
    )

    answer = await whole.api("POST", f"/v1/commands/{device.id}", before + plist + behind)

    assert answer.status_code == 201
    assert (await device.connect()).content == before + plist + behind


async def test_a_raw_command_that_cannot_be_read_says_which_key_is_wrong(whole: Whole) -> None:
    device = await whole.enrolled()
    plist = (
        b'<plist version="1.0"><dict><key>Command</key><dict>'
        b"<key>iTunesStoreID</key><integer>4 apples</integer></dict></dict></plist>"
    )

    answer = await whole.api("POST", f"/v1/commands/{device.id}", plist)

    assert answer.status_code == 400
    assert answer.json()["error"] == "Command.iTunesStoreID: expected an integer"


async def test_an_import_takes_the_message_as_the_device_sent_it(whole: Whole) -> None:
    udid = new_id()
    message = (
        b'\n<plist version="1.0"><dict><key>MessageType</key><string>Authenticate</string>'
        b"<key>UDID</key><string>%b</string><key>DeviceName</key><string>Mac\x01\xff</string>"
        b"<key>Since</key><date>0000-12-30T00:00:00Z</date></dict></plist>\x00" % udid.encode()
    )

    answer = await whole.api("PUT", "/migration", message)

    assert (answer.status_code, answer.json()["outcome"]) == (200, "imported")
