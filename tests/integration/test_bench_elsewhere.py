"""`make bench ARGS="--against URL"`, on a server that knows nothing of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load.elsewhere import Access, authority_in, measured_at
from tests.load.scenarios import SCENARIOS, Size
from tests.support.harness.processes import free_port
from tests.support.harness.system import API_KEY, ServiceProcess

SIZE = Size(devices=4, idles=12, commands_per_device=2)


@pytest.fixture(scope="module")
def sink() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def server(sink: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("server")
    authority_in(folder / "ca")
    settings = {
        "MDM_DEVICE_CA": str(folder / "ca" / "ca.pem"),
        "MDM_WEBHOOK_URL": f"http://{sink}/webhook",
    }
    process = ServiceProcess("all", folder, settings)
    process.start()
    yield process
    process.close()


def access(server: ServiceProcess, sink: str | None, key: str = API_KEY) -> Access:
    file = server.folder / "key"
    file.write_text(key)
    return Access(server.url, file, server.folder / "ca", sink, server.pid)


def test_every_scenario_is_measured_and_every_event_counted(
    server: ServiceProcess, sink: str
) -> None:
    figures = measured_at(access(server, sink), SIZE, (2, 8))

    assert figures.samples.keys() == {2, 8}
    assert [figures.samples[2][name].count for name in SCENARIOS] == [8, 12, 8, 12]
    assert figures.samples[8]["enroll"].count == 16  # a device for each connection
    assert figures.memory["server"] > 10


def test_a_server_that_does_not_trust_our_devices_is_told_of_their_ca(
    server: ServiceProcess, tmp_path: Path
) -> None:
    stranger = Access(server.url, access(server, None).api_key_file, tmp_path, None, None)

    with pytest.raises(SystemExit, match="400: it must trust the CA"):
        measured_at(stranger, SIZE, (2,))


def test_a_wrong_api_key_ends_it_and_is_not_shown(
    server: ServiceProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="401") as refused:
        measured_at(access(server, None, "a-wrong-key-of-32-characters-000"), SIZE, (2,))

    assert "wrong-key" not in f"{refused.value}{capfd.readouterr()}"


def test_a_server_that_is_not_there_is_named_so(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(API_KEY)

    with pytest.raises(SystemExit, match="cannot be reached"):
        measured_at(
            Access(f"http://127.0.0.1:{free_port()}", key, tmp_path, None, None), SIZE, (2,)
        )
