"""Rolling upgrades and scaling under load, through the proxy: no request fails, nothing is lost, order holds.

Needs Debian's nginx; .ci/run installs it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.cluster import NAMES, Cluster, checkout_of, cluster, deploy_parts
from tests.faults.ledger import Ledger
from tests.support.harness.sink import Sink

EARLIER = "856ced23532e968126090f93d5f859366c042fac"
"""The version from which, and back to which, an upgrade rolls: the last one with a single webhook."""
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
    earlier = checkout_of(EARLIER, tmp_path / "earlier")
    if earlier is None:
        pytest.skip("this checkout has no history: git fetch --unshallow")

    async with cluster(tmp_path, earlier) as made:

        async def upgrade_and_back() -> None:
            for version in (None, earlier):
                for name in NAMES:
                    await made.add(name, version)
                    await made.remove_oldest(name)

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
