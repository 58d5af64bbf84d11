"""The sink as a process of its own, as the fault tests use it."""

import asyncio
import sys
from pathlib import Path

import httpx

from tests.support.harness.sink import read_record

BODY = b'{"event_id":"e1","checkin_event":{"udid":"MAC"}}'


async def test_a_sink_process_records_what_came_and_how_it_was_answered(tmp_path: Path) -> None:
    record = tmp_path / "record"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.harness.sink", "--record", str(record)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.put(url.replace("/webhook", "/behaviour"), content=b'{"status": 503}')
        refused = (await client.post(url, content=BODY)).status_code
        await client.put(url.replace("/webhook", "/behaviour"), content=b'{"status": 200}')
        taken = (await client.post(url, content=BODY)).status_code
        stats = (await client.get(url.replace("/webhook", "/stats"))).json()
    process.terminate()
    ended = await process.wait()

    arrivals = read_record(record.read_text())
    assert (refused, taken, ended) == (503, 200, 0)
    assert (stats["requests"], stats["events"]) == (2, 1)
    assert [(a.order, a.was_taken, a.event_id, a.device, a.body) for a in arrivals] == [
        (1, False, "e1", "MAC", BODY),
        (2, True, "e1", "MAC", BODY),
    ]
