"""A device that never answers one of its commands gets the others, over HTTP (docs/rules.md, rule 5).

Ten minutes pass by Debian's libfaketime.
"""

import asyncio
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.whole import Device, Whole, given, whole_server
from tests.support.harness.clocks import LIBRARIES, FalseClock

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed")


async def shown(device: Device, uuid: str) -> dict[str, Any]:
    answer = await device.whole.api("GET", f"/v1/commands/{device.id}/{uuid}")
    found: dict[str, Any] = answer.json()
    return found


async def refused(device: Device, uuid: str) -> None:
    """It answers, and not as MDM wants it."""
    answer = await device.connect("Acknowledged?", CommandUUID=uuid)
    assert answer.status_code == 400


async def time_of(server: Whole) -> datetime:
    """The time by the clock of the process."""
    answer = await server.api("GET", "/version")
    return parsedate_to_datetime(answer.headers["date"])


async def pass_ten_minutes(server: Whole, clock: FalseClock) -> None:
    """Returns once the process has read its new time."""
    before = await time_of(server)
    clock.move(clock.ahead + timedelta(minutes=10))
    async with asyncio.timeout(30):
        while await time_of(server) < before + timedelta(minutes=10):
            await asyncio.sleep(0.2)
    await asyncio.sleep(1)  # a Date has whole seconds


async def test_rule_05_a_command_that_is_never_answered_does_not_block_the_others(
    tmp_path: Path,
) -> None:
    clock = FalseClock(tmp_path / "clock", timedelta())
    async with whole_server(tmp_path, clock.environment) as server:
        device = await server.enrolled()
        bad, *others = [await device.queue() for _ in range(3)]
        for attempt in range(3):
            assert given(await device.connect()) == bad
            assert (await shown(device, bad))["unanswered_attempts"] == attempt
            await refused(device, bad)
        await pass_ten_minutes(server, clock)

        assert given(await device.connect()) == others[0]
        assert await device.open_commands() == [*others, bad]
        assert given(await device.connect("Acknowledged", CommandUUID=others[0])) == others[1]
        assert given(await device.connect("Acknowledged", CommandUUID=others[1])) == bad
        assert given(await device.connect()) == bad

        found = await shown(device, bad)
        assert (found["state"], found["attempts"], found["unanswered_attempts"]) == ("sent", 5, 4)
        assert server.metric("macromdm_commands_moved_back_total") == 1
        [line] = server.log_lines("command_moved_back")
        assert (line["command_uuid"], line["enrollment"]) == (bad, device.id)

        assert given(await device.connect("Acknowledged", CommandUUID=bad)) is None
        done = await shown(device, bad)
        assert (done["state"], done["unanswered_attempts"]) == ("acknowledged", 0)
        events = await server.events_of(device.id, 2 + 3 + 1 + 2 + 1 + 1)
        assert events[-1]["acknowledge_event"]["command_uuid"] == bad


async def test_a_command_shows_the_last_refusal_of_its_device_until_an_answer_counts(
    tmp_path: Path,
) -> None:
    async with whole_server(tmp_path) as server:
        device = await server.enrolled()
        bad = await device.queue()
        assert given(await device.connect()) == bad
        await refused(device, bad)

        async with asyncio.timeout(20):
            while not (found := (await shown(device, bad))["last_refusal"]):
                await asyncio.sleep(0.2)  # written with the times of the last messages
        assert found["count"] == 1

        assert given(await device.connect("NotNow", CommandUUID=bad)) is None
        assert (await shown(device, bad))["last_refusal"] is None
