"""A typed client that openapi-python-client generates from docs/openapi.json queues a command."""

import subprocess
import sys
from base64 import b64encode
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import ROOT
from tests.integration.whole import Whole, given
from tests.support.harness.system import API_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package of the client, importable while the tests run."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.yml").write_text("post_hooks: []\n")  # its formatter is not ours
    command = [
        Path(sys.executable).with_name("openapi-python-client"),
        "generate",
        "--meta",
        "none",
    ]
    command += ["--path", ROOT / "docs" / "openapi.json", "--config", folder / "config.yml"]
    command += ["--output-path", folder / "generated_client"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    sys.path.insert(0, str(folder))
    yield import_module
    sys.path.remove(str(folder))


async def test_a_generated_client_queues_a_command_and_reads_it_back(
    generated: Any, whole: Whole
) -> None:
    device = await whole.enrolled()
    client = generated("generated_client").AuthenticatedClient(
        base_url=whole.process.url,
        token=b64encode(f"micromdm:{API_KEY}".encode()).decode(),
        prefix="Basic",
    )
    models = generated("generated_client.models")
    api = "generated_client.api.commands"
    command = models.DeviceInformationCommand(
        udid=device.id, request_type="DeviceInformation", queries=["OSVersion"]
    )

    async with client:
        queued = await generated(f"{api}.post_command").asyncio(client=client, body=command)

        assert isinstance(queued, models.QueuedCommand)
        command_uuid = queued.payload["command_uuid"]
        assert given(await device.connect()) == command_uuid
        read = generated(f"{api}.get_command").asyncio
        shown = await read(device.id, command_uuid, client=client)
    assert isinstance(shown, models.CommandOut)
    assert (shown.request_type, shown.state) == ("DeviceInformation", "sent")


async def test_an_error_is_a_problem_for_a_generated_client(generated: Any, whole: Whole) -> None:
    client = generated("generated_client").AuthenticatedClient(
        base_url=whole.process.url, token="wrong"
    )

    async with client:
        answer = await generated("generated_client.api.devices.list_devices").asyncio(client=client)

    assert isinstance(answer, generated("generated_client.models").Problem)
    assert answer.status == 401
