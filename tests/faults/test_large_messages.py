"""Many large messages at once: each is answered, and small ones are served at once afterwards (B7, L2)."""

import asyncio
import plistlib
import uuid
from collections import Counter
from pathlib import Path
from time import perf_counter

from tests.integration.whole import Device, given, whole_server

DEVICES = 8
MESSAGES = 8
"""Of each device, all of them at once."""
SIZE = 3_000_000
"""Bytes of data, which make 4 MB of a property list."""
MOST_MEGABYTES = 1_200
PATIENCE = 120


def report_of(device: Device, number: int) -> bytes:
    """A result of 4 MB, to a command that nobody queued."""
    return plistlib.dumps(
        {
            "Status": "Acknowledged",
            "UDID": device.id,
            "CommandUUID": str(uuid.uuid4()),
            "Result": bytes([number]) * SIZE,
        }
    )


def peak_megabytes(pid: int) -> int:
    """The most memory that a process has had so far."""
    [line] = [
        each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in each
    ]
    return int(line.split()[1]) // 1_000


async def test_large_messages_at_once_are_each_answered_and_small_ones_are_served_behind_them(
    tmp_path: Path,
) -> None:
    async with whole_server(tmp_path, {"MDM_MAX_BODY": "11 MiB"}) as whole:
        devices = [await whole.enrolled() for _ in range(DEVICES)]
        bodies = [(device, report_of(device, n)) for device in devices for n in range(MESSAGES)]
        signed = [(device, body, device.identity.sign(body)) for device, body in bodies]
        before = peak_megabytes(whole.process.pid)
        begun = perf_counter()
        answers = await asyncio.gather(
            *(
                device.send("/mdm/connect", body, signature=signature, timeout=PATIENCE)
                for device, body, signature in signed
            )
        )
        took = perf_counter() - begun

        begun = perf_counter()
        idle = await devices[0].connect()
        idle_took = perf_counter() - begun

        peak = peak_megabytes(whole.process.pid)
        statuses = Counter(answer.status_code for answer in answers)
        print(
            f"{dict(statuses)} in {took:.1f} s, then an Idle in {idle_took:.2f} s; {before} to {peak} MB"
        )
        assert statuses.keys() <= {200, 503}
        assert statuses[200] > 0
        assert given(idle) is None
        assert idle_took < 1
        assert peak < MOST_MEGABYTES
