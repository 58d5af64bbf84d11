"""The containers of the development overlay as processes: the commands, settings and secrets that kustomize
renders, on a real store and broker, asked by the probes."""

import asyncio
import base64
import importlib
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.rendered import Document, Mounts, local_modules, workload
from tests.support.harness.processes import free_port
from tests.support.harness.system import ServiceProcess

pytestmark = pytest.mark.real

NAMES = ("checkin", "commands", "push", "webhook")


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    with local_modules():
        renders = importlib.import_module("renders").renders()
        return next(rendered for name, rendered in renders if name == "development")


@pytest.fixture
def mounts(tmp_path: Path, documents: list[Document], mongodb_url: str, amqp_url: str) -> Mounts:
    made = Mounts(tmp_path, documents)
    made.urls = {"MDM_MONGODB_URL": mongodb_url, "MDM_AMQP_URL": amqp_url}
    return made


async def run(arguments: list[str], environ: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", *arguments),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd()),
            **environ,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


async def test_what_is_rendered_starts_is_ready_and_ends_within_its_grace(
    tmp_path: Path, documents: list[Document], mounts: Mounts
) -> None:
    [job] = workload(documents, "prepare")["spec"]["template"]["spec"]["containers"]
    assert await run(job["args"], mounts.environment("prepare")) == (
        0,
        "making the indexes of this version, which takes minutes on a large store\n"
        "the store is prepared\n",
    )
    processes = {}
    for name in NAMES:
        environ = mounts.environment(name)
        assert urlsplit(f"//{environ.pop('MDM_HTTP')}").port is not None
        del environ["MDM_OPS_HTTP"]
        unset = {"MDM_API_KEY": "", "MDM_DATA_DIR": ""}
        processes[name] = ServiceProcess(name, tmp_path / f"{name}-process", environ | unset)
    try:
        for process in processes.values():
            process.launch()
        for name, process in processes.items():
            pod = workload(documents, name)["spec"]["template"]["spec"]
            [container] = pod["containers"]
            assert container["args"] == [process.name]
            await asyncio.to_thread(process.wait_until_serving)
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]
                assert await asyncio.to_thread(status, process.ops_url + path) == 200
            # Development is plain http. No other setting is unknown, or probably not meant.
            lines = [line for line in process.output().splitlines() if '"event":"setting"' in line]
            assert all("MDM_SERVER_URL: is plain http" in line for line in lines), lines

        key = Path(mounts.environment("commands")["MDM_API_KEY_FILE"]).read_text()
        request = urllib.request.Request(f"{processes['commands'].url}/v1/devices")
        token = base64.b64encode(f"micromdm:{key}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200

        identity = ["identity", "--name", "device", "--out", str(tmp_path / "identity")]
        code, said = await run(identity, mounts.environment("checkin"))
        assert code == 0, said
        assert (tmp_path / "identity" / "device-cert.pem").exists()

        codes = await asyncio.gather(
            *(asyncio.to_thread(process.terminate) for process in processes.values())
        )
        assert codes == [0] * len(NAMES)
    finally:
        for process in processes.values():
            process.close()


async def test_a_pod_without_its_store_and_broker_lives_and_is_not_ready(
    tmp_path: Path, mounts: Mounts
) -> None:
    away = f"127.0.0.1:{free_port()}"
    mounts.urls = {
        "MDM_MONGODB_URL": f"mongodb://{away}/macromdm?serverSelectionTimeoutMS=500",
        "MDM_AMQP_URL": f"amqp://{away}/",
    }
    environ = mounts.environment("checkin") | {"MDM_API_KEY": "", "MDM_DATA_DIR": ""}
    for setting in ("MDM_HTTP", "MDM_OPS_HTTP"):
        del environ[setting]
    process = ServiceProcess("checkin", tmp_path / "process", environ)
    try:
        process.launch()
        async with asyncio.timeout(60):
            while True:
                await asyncio.sleep(0.1)
                try:
                    alive = await asyncio.to_thread(status, f"{process.ops_url}/healthz")
                    break
                except urllib.error.URLError:
                    assert process.exit_code is None, process.output()

        assert alive == 200
        assert await asyncio.to_thread(status, f"{process.ops_url}/readyz") == 503
        assert process.exit_code is None
    finally:
        process.close()
