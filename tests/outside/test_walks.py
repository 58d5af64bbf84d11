"""How often a reader who follows a request changes files.

The functions that a request calls, in the order of their first calls; a switch is one that is in another file
than the one before it. The numbers may only fall.
"""

import asyncio
import plistlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx
import pytest

from services.runtime.program import ALL_SERVICES, ServicesProgram
from shared.settings import AllSettings
from shared.telemetry.metrics import Metrics
from shared.web.server.server import Server
from tests.support.harness.identities import DeviceIdentity, FleetAuthority
from tests.support.harness.system import API_KEY

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(str(ROOT / folder) for folder in ("services", "shared"))
LOOPS = str(ROOT / "shared" / "concurrency" / "periodic.py")
"""Runs what works beside the requests."""
DRIVER = str(ROOT / "shared" / "storage" / "sqlite")
"""Ours too, but in the place of a database driver."""
MOST_SWITCHES = {"command": 98, "connect": 94}
UDID = "A0000000-0000-4000-8000-000000000001"
REPEATED = 5
"""Of so many walks the shortest counts: what the loops of the server begin works beside them."""


class Walk:
    """The file of each function of ours in the order of their first calls, while it is entered. Tasks that
    were there before, as the loops of the server are, do not count."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._seen: set[CodeType] = set()
        self._beside: set[object] = set()

    def __enter__(self) -> "Walk":
        self._beside = asyncio.all_tasks() - {asyncio.current_task()}
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        file = code.co_filename
        if event != "call" or not file.startswith(OURS) or file.startswith(DRIVER):
            return
        if code.co_name.startswith("<"):  # a comprehension or lambda is read with its function
            return
        if code not in self._seen and not self._is_beside(frame):
            self._seen.add(code)
            self.files.append(file)

    def _is_beside(self, frame: FrameType | None) -> bool:
        with suppress(RuntimeError):  # another thread than that of the event loop
            if asyncio.current_task() in self._beside:
                return True
        while frame is not None:
            if frame.f_code.co_filename == LOOPS:
                return True
            frame = frame.f_back
        return False

    @property
    def switches(self) -> int:
        return sum(a != b for a, b in zip(self.files, self.files[1:], strict=False))


@asynccontextmanager
async def serving(folder: Path, authority: FleetAuthority) -> AsyncIterator[str]:
    """The whole server in this process, where its calls can be seen; its URL."""
    (folder / "ca.pem").write_bytes(authority.pem)
    settings = AllSettings(
        api_key=API_KEY,
        http="127.0.0.1:0",
        ops_http="127.0.0.1:0",
        data_dir=folder,
        device_ca=folder / "ca.pem",
    )
    metrics, opened = Metrics(), asyncio.Event()
    program = ServicesProgram(ALL_SERVICES, settings, metrics)

    async def on_open() -> None:
        opened.set()

    server = Server(program, settings, metrics, opens_when_ready=True, on_open=on_open)
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(30):
            await opened.wait()
        yield f"http://127.0.0.1:{server.main.port}"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def shortest(request: Callable[[int], Awaitable[httpx.Response]], status: int) -> int:
    switches = []
    for number in range(REPEATED):
        await asyncio.sleep(0.5)  # what the one before left to be done is done
        with Walk() as walk:
            assert (await request(number)).status_code == status
        switches.append(walk.switches)
    return min(switches)


@pytest.mark.asyncio
async def test_nobody_changes_files_more_often_to_follow_a_request(tmp_path: Path) -> None:
    authority = FleetAuthority()
    identity = authority.issue()
    async with serving(tmp_path, authority) as url, httpx.AsyncClient(base_url=url) as http:
        send = sender(http, identity)
        topic = "com.apple.mgmt.External.test"
        await send("/mdm/checkin", MessageType="Authenticate", Topic=topic)
        await send(
            "/mdm/checkin", MessageType="TokenUpdate", Topic=topic, Token=b"t", PushMagic="m"
        )

        async def command(number: int) -> httpx.Response:
            body = {"udid": UDID, "request_type": "ProfileList", "command_uuid": f"c{number}"}
            return await http.post("/v1/commands", json=body, auth=("micromdm", API_KEY))

        async def connect(_: int) -> httpx.Response:
            return await send("/mdm/connect", Status="Idle")

        found = {"command": await shortest(command, 201), "connect": await shortest(connect, 200)}

    assert all(found[each] <= MOST_SWITCHES[each] for each in MOST_SWITCHES), found


def sender(
    http: httpx.AsyncClient, identity: DeviceIdentity
) -> Callable[..., Awaitable[httpx.Response]]:
    async def send(path: str, **keys: Any) -> httpx.Response:
        body = plistlib.dumps({"UDID": UDID, **keys})
        return await http.put(path, content=body, headers={"Mdm-Signature": identity.sign(body)})

    return send
