"""Rule 11 under faults in random order: two replicas, two devices, with all that can go wrong.

What a seed finds it finds again: time is fake, and so is everything that could vary.
"""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain.errors import StoreUnavailable
from shared.domain.subscription import BodyForm
from tests.support.delivery_rig import PARTITION, SUBSCRIPTION, Replica, World
from tests.support.fakes.clock import FakeClock, settle
from tests.support.fakes.event_queue import FakeReceiver

DEVICES = ("MAC", "PAD")  # of one partition
STEPS = 60


class Weather:
    """Makes the store slow and the receiver unreliable until it clears up."""

    def __init__(self, seed: int, clock: FakeClock) -> None:
        self.random = random.Random(seed)
        self.is_bad = True
        self.refused: set[str] = set()
        """Events that may be set aside: their receiver answers 500 to them again and again."""
        self._clock = clock

    async def __call__(self, operation: str) -> None:
        """Before and after an operation of the store: it takes a while, or much longer."""
        await asyncio.sleep(0)
        if self.is_bad and self.random.random() < 0.5:
            limit = 12.0 if self.random.random() < 0.2 else 0.6
            await self._clock.sleep(timedelta(seconds=self.random.uniform(0, limit)))

    def spoil(self, receiver: FakeReceiver, event_id: str) -> None:
        """Decide how the first attempts of an event will end."""
        kinds = ["fail", "lose", "take"]
        receiver.script[event_id] = self.random.choices(kinds, [3, 1, 6], k=2)
        if self.random.random() < 0.1:
            receiver.script[event_id] = ["500"] * 12
            self.refused.add(event_id)


class Play:
    """One run of the world under a seed."""

    def __init__(self, seed: int, budget: int, batch: int) -> None:
        self.world = World(prefetch=4, budget=budget)
        self.subscription = replace(SUBSCRIPTION, form=BodyForm(batch=batch))
        self.weather = Weather(seed, self.world.clock)
        self.random = self.weather.random
        self.published: dict[str, list[str]] = {device: [] for device in DEVICES}
        self.replicas: list[Replica] = []
        self.read_back = 0.0
        self.world.journal.before = self.read_journal

    async def read_journal(self, operation: str) -> None:
        """The journal is slow like the rest of the store, and away at times."""
        await self.weather(operation)
        if self.weather.is_bad and self.random.random() < 0.2:
            raise StoreUnavailable("away")

    async def start(self) -> Replica:
        replica = Replica(self.world, waits=[timedelta(seconds=1)] * 500)
        replica.subscriptions.subscriptions = [self.subscription]
        replica.deliveries.before = self.weather
        replica.deliveries.after_read = self.weather
        self.replicas.append(replica)
        return await replica.__aenter__()

    async def act(self) -> None:
        """Something happens."""
        replica = self.random.choice(self.replicas)
        match self.random.choices(["publish", "cut", "kill", "move"], [8, 1, 1, 1])[0]:
            case "publish":
                device = self.random.choice(DEVICES)
                name = f"{self.random.randrange(1000):03d}-{len(self.published[device])}-{device}"
                self.weather.spoil(self.world.receiver, name)
                self.published[device].append(name)
                self.world.publish(name, device=device)
            case "cut" if replica.consumer.channel and not replica.channel.is_dead:
                channel = replica.channel
                self.world.queue.cut_off(channel)
                await self.world.run(self.random.uniform(0, 5))
                channel.outbox_event()
            case "kill":
                self.replicas.remove(replica)
                await replica.kill()
                await self.start()
            case "move":
                has_it = PARTITION in replica.share.partitions
                replica.share.partitions = frozenset() if has_it else frozenset([PARTITION])

    async def clear_up(self) -> None:
        """No more faults: everything must come to an end."""
        self.weather.is_bad = False
        for replica in self.replicas:
            replica.share.partitions = frozenset([PARTITION])
        await self.world.run(150)
        for _ in range(
            30
        ):  # where nothing but refused events waits, they are asked for once a minute
            await self.world.jump(61)

    async def end(self) -> None:
        for replica in self.replicas:
            await replica.kill()
            self.read_back += replica.metric("bodies_read_back")
            assert replica.bodies.held == 0


PLENTY, FEW, TINY = 2**20, 1600, 44
"""Budgets: of all bodies, of some, and of two that wait and one that is read back. A request has an eighth of
the room for what is read back: with the last one it carries no second body."""


@pytest.mark.parametrize(
    ("budget", "batch"), [(PLENTY, 1), (PLENTY, 2), (PLENTY, 100), (TINY, 1), (FEW, 2), (FEW, 100)]
)
@pytest.mark.parametrize("seed", range(12))
async def test_rule_11_whatever_goes_wrong_nothing_is_lost_and_the_order_holds(
    seed: int, budget: int, batch: int
) -> None:
    play = Play(seed, budget, batch)
    await play.start()
    await play.start()
    for _ in range(STEPS):
        await play.act()
        await play.world.run(play.random.uniform(0, 0.8))
    await play.clear_up()
    await play.end()
    await settle()

    for device, names in play.published.items():
        arrived = [name for name in play.world.receiver.firsts if name.endswith(device)]
        assert sorted(arrived) == sorted(names)
        in_order = [name for name in names if name not in play.weather.refused]
        assert [name for name in arrived if name not in play.weather.refused] == in_order
    assert all(len(bodies) == 1 for bodies in play.world.receiver.bodies.values())
    assert play.world.is_settled
    assert play.read_back > 0
    largest = max(len(names) for _, names in play.world.receiver.requests)
    assert 1 < largest <= batch or largest == batch
