"""What a load reads of an answer to a device."""

import plistlib

import pytest

from tests.support.harness.device import command_uuid_of


@pytest.mark.parametrize("uuid", ["a-uuid", "with <&> marks", ""])
@pytest.mark.parametrize("format", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_the_uuid_of_a_command_is_read_in_any_form(uuid: str, format: plistlib.PlistFormat) -> None:
    command = {"CommandUUID": uuid, "Command": {"RequestType": "DeviceInformation"}}

    assert command_uuid_of(plistlib.dumps(command, fmt=format)) == uuid


def test_a_uuid_inside_a_command_is_not_taken_for_the_commands_own() -> None:
    command = {"Command": {"CommandUUID": "inner"}, "CommandUUID": "outer"}

    assert command_uuid_of(plistlib.dumps(command)) == "outer"


def test_an_empty_answer_has_no_command() -> None:
    assert command_uuid_of(b"") is None
