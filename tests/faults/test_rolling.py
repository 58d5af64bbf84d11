"""Rolling upgrades and scaling under load, through the proxy: no request fails, nothing is lost, order holds.

Needs Debian's nginx; .ci/run installs it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.cluster import NAMES, Cluster, cluster, deploy_parts, earlier_version
from tests.faults.ledger import Ledger
from tests.support.harness.sink import Sink

DEVICES = 8

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path(deploy_parts().NGINX).exists(), reason="nginx is not installed"),
]


async def under_load(made: Cluster, change: Callable[[], Awaitable[None]]) -> Ledger:
    """A fleet enrolls and is busy while the cluster changes; then the account, in which nothing failed."""
    sink = await Sink().start(made.sink_port)
    try:
        ledger = made.ledger(sink, DEVICES)
        await ledger.enroll()
        async with asyncio.TaskGroup() as group:
            group.create_task(ledger.run())
            await asyncio.sleep(1)
            await change()
            await asyncio.sleep(1)
            ledger.stop()
        await ledger.settle()
        ledger.close()
        ledger.check()
    finally:
        await sink.stop()
    print(ledger.figures)
    assert ledger.failed == 0
    assert set(made.exit_codes) == {0}
    return ledger


async def test_an_upgrade_that_rolls_and_rolls_back_fails_no_request(tmp_path: Path) -> None:
    earlier = earlier_version(tmp_path / "earlier")
    async with cluster(tmp_path, earlier) as made:

        async def roll(name: str, version: Path | None) -> None:
            await made.add(name, version)
            await made.remove_oldest(name)

        async def upgrade_and_back() -> None:
            for name in NAMES:
                await roll(name, None)
            # All at once, as `kubectl apply` does.
            await asyncio.gather(*(roll(name, earlier) for name in NAMES))

        ledger = await under_load(made, upgrade_and_back)

    assert len(made.exit_codes) == 2 * len(NAMES)
    assert sum(len(device.answered) for device in ledger.devices) > 200


@pytest.mark.parametrize("name", ["checkin", "webhook"])
async def test_scaling_up_and_down_fails_no_request_and_keeps_the_order(
    tmp_path: Path, name: str
) -> None:
    async with cluster(tmp_path) as made:

        async def scale() -> None:
            for _ in range(2):
                await made.add(name)
            await asyncio.sleep(2)
            for _ in range(2):
                await made.remove_oldest(name)

        ledger = await under_load(made, scale)

    assert sum(len(device.answered) for device in ledger.devices) > 200
