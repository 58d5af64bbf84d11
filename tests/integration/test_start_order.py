"""Services start in any order, without store and broker too; and `all` starts again after any end."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.whole import TOPIC, Whole, given, whole_server
from tests.support.harness.apns import running
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.processes import Server
from tests.support.harness.sink import Sink
from tests.support.harness.system import API_KEY, ServiceProcess

PATIENCE = 60.0
NAMES = ("checkin", "commands", "push", "webhook")
ASKED = {
    "checkin": ("PUT", "/mdm/connect"),
    "commands": ("GET", "/v1/commands/X"),
    "push": ("GET", "/push/X"),
    "webhook": ("GET", "/v1/webhooks"),
}
"""A request of each service that it cannot answer without its store."""


# --- separate services -------------------------------------------------------------------------------


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.1)


async def readiness(http: httpx.AsyncClient, service: ServiceProcess) -> httpx.Response:
    return await http.get(f"{service.ops_url}/readyz")


async def is_ready(http: httpx.AsyncClient, service: ServiceProcess, status: int) -> bool:
    return (await readiness(http, service)).status_code == status


async def shows(http: httpx.AsyncClient, service: ServiceProcess, metric: str) -> bool:
    return metric in (await http.get(f"{service.ops_url}/metrics")).text.splitlines()


async def opened(http: httpx.AsyncClient, service: ServiceProcess) -> None:
    async def is_open() -> bool:
        try:
            await http.get(service.url + "/version")
            return (await http.get(f"{service.ops_url}/healthz")).status_code == 200
        except httpx.ConnectError:
            return False

    await until(is_open)


async def cannot_serve_yet(http: httpx.AsyncClient, service: ServiceProcess) -> None:
    """It is alive, says that it is not ready, and tells clients to come again."""
    ready = await readiness(http, service)
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert ready.json()["reasons"]
    method, path = ASKED[service.name]
    answer = await http.request(method, service.url + path, auth=("micromdm", API_KEY))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert service.exit_code is None


@pytest.fixture
async def absent(fault_store: Server, fault_rabbit: Server) -> AsyncIterator[dict[str, Server]]:
    """Store and broker, both of which are away."""
    servers = {"store": fault_store, "broker": fault_rabbit}
    for server in servers.values():
        await asyncio.to_thread(server.stop)
    yield servers
    for server in servers.values():
        if not server.is_running:
            await asyncio.to_thread(server.start)


class Separate(Whole):
    """Four processes, and what a proxy by path makes of them."""

    services: dict[str, ServiceProcess]

    def url_of(self, path: str) -> str:
        for start, name in (("/mdm/", "checkin"), ("/push/", "push"), ("/v1/push/", "push")):
            if path.startswith(start):
                return self.services[name].url + path
        return self.services["commands"].url + path


@asynccontextmanager
async def separate_services(
    folder: Path, settings: dict[str, str], names: Sequence[str] = NAMES
) -> AsyncIterator[Separate]:
    """Launched, and not waited for."""
    authority = FleetAuthority()
    (folder / "ca.pem").write_bytes(authority.pem)
    async with (
        Sink() as sink,
        httpx.AsyncClient(timeout=30) as http,
        running(folder / "apns") as apns,
    ):
        pair = apns.certificate(TOPIC)
        settings = settings | {
            "MDM_DEVICE_CA": str(folder / "ca.pem"),
            "MDM_WEBHOOK_URL": sink.url,
            "MDM_APNS_URL": apns.url,
            "MDM_APNS_CA": str(apns.authority.ca_file),
            "MDM_PUSH_CERT": str(pair.certificate),
            "MDM_PUSH_KEY": str(pair.key),
        }
        services = {name: ServiceProcess(name, folder / name, settings) for name in names}
        system = Separate(services["checkin"], sink, apns, authority, http)
        system.services = services
        try:
            for service in services.values():
                service.launch()
            yield system
        finally:
            for service in services.values():
                service.close()


@pytest.mark.parametrize("order", [("store", "broker"), ("broker", "store")], ids=" first, ".join)
async def test_services_that_were_first_wait_for_store_and_broker_and_then_serve(
    tmp_path: Path, absent: dict[str, Server], order: tuple[str, str]
) -> None:
    first, second = order
    settings = {
        "MDM_MONGODB_URL": f"{absent['store'].url}/{first}_first",
        "MDM_AMQP_URL": absent["broker"].url,
    }
    async with separate_services(tmp_path, settings) as system:
        for service in system.services.values():
            await opened(system.http, service)
            await cannot_serve_yet(system.http, service)

        await asyncio.to_thread(absent[first].start)
        if first == "broker":
            for service in system.services.values():
                await cannot_serve_yet(system.http, service)
        await asyncio.to_thread(absent[second].start)
        for service in system.services.values():
            await asyncio.to_thread(service.wait_until_serving)

        device = await system.enrolled()
        command = await device.queue()
        assert await system.pushed(device.token) == {"mdm": f"magic-{device.id}"}
        assert given(await device.connect()) == command
        assert len(await system.events_of(device.id, 3)) == 3
        assert (await system.api("GET", f"/push/{device.id}")).status_code == 200
        codes = [service.exit_code for service in system.services.values()]
        assert codes == [None] * len(NAMES)


async def test_check_in_asks_devices_to_come_again_while_its_store_is_away(
    tmp_path: Path, fault_store: Server, fault_rabbit: Server
) -> None:
    settings = {
        "MDM_MONGODB_URL": f"{fault_store.url}/away",
        "MDM_AMQP_URL": fault_rabbit.url,
    }
    async with separate_services(tmp_path, settings, names=["checkin"]) as system:
        checkin = system.services["checkin"]
        await asyncio.to_thread(checkin.wait_until_serving)
        device = await system.enrolled()

        await asyncio.to_thread(fault_store.stop)
        refused = await device.connect()
        await until(lambda: shows(system.http, checkin, "macromdm_store_up 0.0"))
        ready = await is_ready(system.http, checkin, 200)
        await asyncio.to_thread(fault_store.start)
        await until(lambda: shows(system.http, checkin, "macromdm_store_up 1.0"))

        assert (refused.status_code, refused.content) == (503, b"")
        assert int(refused.headers["retry-after"]) > 0
        assert ready  # or a proxy would answer in our stead
        assert (await device.connect()).status_code == 200
        assert checkin.exit_code is None


async def test_webhooks_answer_api_clients_while_the_broker_is_away(
    tmp_path: Path, fault_store: Server, fault_rabbit: Server
) -> None:
    settings = {
        "MDM_MONGODB_URL": f"{fault_store.url}/no_broker",
        "MDM_AMQP_URL": fault_rabbit.url,
    }
    async with separate_services(tmp_path, settings, names=["checkin", "webhook"]) as system:
        webhook = system.services["webhook"]
        await asyncio.to_thread(webhook.wait_until_serving)

        await asyncio.to_thread(fault_rabbit.stop)
        await until(lambda: shows(system.http, webhook, "macromdm_broker_up 0.0"))
        ready = await is_ready(system.http, webhook, 200)
        listed = await system.http.get(f"{webhook.url}/v1/webhooks", auth=("micromdm", API_KEY))
        await asyncio.to_thread(fault_rabbit.start)

        assert ready  # or a proxy would answer in our stead
        assert listed.status_code == 200
        assert [each["id"] for each in listed.json()["webhooks"]] == ["config"]


# --- all in one --------------------------------------------------------------------------------------


def kill_group(process: ServiceProcess) -> None:
    process.kill()


def kill_process_alone(process: ServiceProcess) -> None:
    """Its store is left behind, and must not be in the way."""
    os.kill(process.pid, signal.SIGKILL)
    while process.exit_code is None:
        time.sleep(0.01)


@pytest.mark.parametrize("kill", [kill_group, kill_process_alone])
async def test_all_goes_on_with_its_data_after_kill_9_on_the_same_port_and_folder(
    tmp_path: Path, kill: Callable[[ServiceProcess], None]
) -> None:
    async with whole_server(tmp_path) as whole:
        device = await whole.enrolled()
        await whole.events_of(device.id, 2)
        await whole.sink.stop()
        command = await device.queue()
        assert given(await device.connect()) == command
        assert (await device.connect("NotNow", CommandUUID=command)).status_code == 200

        await asyncio.to_thread(kill, whole.process)
        await whole.sink.start(whole.sink.port)
        await asyncio.to_thread(whole.process.start)

        events = await whole.events_of(device.id, 4)
        statuses = [event["acknowledge_event"]["status"] for event in events[2:4]]
        assert statuses == ["Idle", "NotNow"]
        assert await device.open_commands() == [command]
        assert given(await device.connect()) == command
