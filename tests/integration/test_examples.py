"""The example listener, as everybody copies it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.harness.processes import accepts, free_port, spawn, wait_for

LISTENER = Path(__file__).parents[2] / "docs" / "examples" / "listener.py"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    process = spawn([sys.executable, str(LISTENER), str(port)], os.environ, tmp_path / "log")
    try:
        wait_for(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "content",
    [
        {"command_event": {"udid": "MAC", "command_uuid": "c"}},
        {"acknowledge_event": {"udid": "MAC", "status": "Idle", "raw_payload": "PHBsaXN0Lz4="}},
        {"checkin_event": {"udid": "MAC", "raw_payload": None}},
        {},
    ],
)
def test_the_example_listener_takes_events_of_every_topic(
    listener: str, content: dict[str, object]
):
    event = {"topic": "macromdm.Any", "created_at": "2026-01-01T00:00:00Z", **content}
    assert httpx.post(listener, json=event, timeout=10).status_code == 200
