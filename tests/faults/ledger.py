"""The ledger of a fault test: what was acknowledged, against what arrived.

Simulated devices write down every message that was answered 200, API clients every command that was
answered 2xx, the sink every event. At the end nothing acknowledged may be missing, whatever was
killed, frozen or cut meanwhile.
"""

import asyncio
import base64
import plistlib
import random
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.harness.device import ApiClient, SimulatedDevice, command_uuid_of
from tests.support.harness.http1 import Answer, Connection, ConnectionLost
from tests.support.harness.sink import Sink
from tests.support.harness.system import API_KEY

PATIENCE = 90.0
BETWEEN_TRIES = 0.05


class Link:
    """Requests to whichever replica is there; repeats until somebody answers for good."""

    def __init__(self, ports: Sequence[int], chance: random.Random) -> None:
        self._connections = [Connection("127.0.0.1", port, within=15) for port in ports]
        self._random = chance
        self.lost = 0
        self.unavailable = 0

    async def until_answered(self, request: bytes) -> Answer:
        """The first answer that is not 503, from any replica."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    answer = await self._random.choice(self._connections).send(request)
                except (ConnectionLost, OSError):
                    self.lost += 1
                else:
                    if answer.status != 503:
                        return answer
                    self.unavailable += 1
                await asyncio.sleep(BETWEEN_TRIES)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@dataclass
class LedgerDevice:
    """A device that writes down what it was answered and what it was given."""

    device: SimulatedDevice
    link: Link
    answered: list[int] = field(default_factory=list)
    given: list[str] = field(default_factory=list)

    async def say(self, request: bytes) -> bytes:
        number = self.device.sequence
        answer = await self.link.until_answered(request)
        if answer.status != 200:
            raise AssertionError(f"{self.device.udid}: {answer.status}")
        self.answered.append(number)
        return answer.body

    async def enroll(self) -> None:
        await self.say(self.device.authenticate())
        await self.say(self.device.token_update())

    async def work(self) -> None:
        """Connect, and answer commands until there are none."""
        body = await self.say(self.device.idle())
        while (command := command_uuid_of(body)) is not None:
            self.given.append(command)
            body = await self.say(self.device.report(command))


class Ledger:
    """A fleet under load, and the account of it."""

    def __init__(
        self,
        devices: Sequence[SimulatedDevice],
        ports: dict[str, list[int]],
        sink: Sink,
        seed: int = 1,
    ) -> None:
        chance = random.Random(seed)
        self._random = chance
        self._sink = sink
        self._api_ports = ports["commands"]
        self.devices = [LedgerDevice(device, Link(ports["checkin"], chance)) for device in devices]
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self._links = [device.link for device in self.devices]
        self._over = asyncio.Event()

    async def enroll(self) -> None:
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                group.create_task(device.enroll())

    async def run(self) -> None:
        """Devices connect and answer, clients queue commands, until `stop`."""
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                group.create_task(self._poll(device))
            for _ in range(3):
                group.create_task(self._queue_commands())

    def stop(self) -> None:
        self._over.set()

    async def _poll(self, device: LedgerDevice) -> None:
        while not self._over.is_set():
            await device.work()
            await asyncio.sleep(self._random.uniform(0, 0.2))

    async def _queue_commands(self) -> None:
        link, api = Link(self._api_ports, self._random), ApiClient(API_KEY)
        self._links.append(link)
        while not self._over.is_set():
            device = self._random.choice(self.devices).device
            command = str(uuid.uuid4())
            answer = await link.until_answered(api.enqueue(device.udid, command))
            if answer.status not in (200, 201):
                raise AssertionError(f"queueing: {answer.status} {answer.body!r}")
            self.accepted[device.udid].append(command)
            await asyncio.sleep(0.02)
        link.close()

    # --- the account

    async def settle(self) -> None:
        """Let every device fetch what is left, and every event arrive."""
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for device in self.devices:
                    group.create_task(device.work())
        async with asyncio.timeout(PATIENCE):
            while missing := self.missing_events():
                await asyncio.sleep(0.25)
                del missing

    def check(self) -> None:
        """Raises AssertionError with what is wrong."""
        assert not self.missing_events()
        self._check_commands()
        self._check_doubles()
        self._check_order()

    def arrivals(self) -> dict[str, list[int]]:
        """device -> sequence numbers in the order in which the sink took them."""
        found: dict[str, list[int]] = defaultdict(list)
        for arrival in self._sink.taken:
            body = arrival.event.get("checkin_event") or arrival.event["acknowledge_event"]
            message = plistlib.loads(base64.b64decode(body["raw_payload"]))
            found[arrival.device].append(message["Sequence"])
        return found

    def missing_events(self) -> dict[str, list[int]]:
        arrived = self.arrivals()
        missing = {}
        for device in self.devices:
            udid = device.device.udid
            lost = sorted(set(device.answered) - set(arrived.get(udid, ())))
            if lost:
                missing[udid] = lost
        return missing

    def _check_commands(self) -> None:
        for device in self.devices:
            udid = device.device.udid
            lost = set(self.accepted[udid]) - set(device.given)
            foreign = set(device.given) - set(self.accepted[udid])
            assert not lost, f"{udid}: accepted and never delivered: {lost}"
            # a client that was killed in between may not know that its command was stored
            others = {c for other, list_ in self.accepted.items() if other != udid for c in list_}
            assert not foreign & others, (
                f"{udid}: got another device's commands: {foreign & others}"
            )

    def _check_doubles(self) -> None:
        bodies: dict[str, bytes] = {}
        for arrival in self._sink.arrivals:
            before = bodies.setdefault(arrival.event_id, arrival.body)
            assert before == arrival.body, f"{arrival.event_id}: two different bodies"

    def _check_order(self) -> None:
        arrived = self.arrivals()
        for device in self.devices:
            firsts = list(dict.fromkeys(arrived.get(device.device.udid, ())))
            answered = set(device.answered)
            in_order = [number for number in firsts if number in answered]
            assert in_order == sorted(in_order), f"{device.device.udid}: out of order: {in_order}"

    @property
    def failed(self) -> int:
        """Requests of devices and clients that were not answered, or with a 503."""
        return sum(link.lost + link.unavailable for link in self._links)

    @property
    def figures(self) -> str:
        events = sum(len(device.answered) for device in self.devices)
        commands = sum(map(len, self.accepted.values()))
        doubles = len(self._sink.taken) - len({a.event_id for a in self._sink.taken})
        lost = sum(device.link.lost for device in self.devices)
        return (
            f"{events} messages and {commands} commands acknowledged, 0 lost; {doubles} doubles; "
            f"{lost} connections lost"
        )

    def close(self) -> None:
        for device in self.devices:
            device.link.close()
