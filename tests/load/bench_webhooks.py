"""How fast one webhook process delivers: single events, batches, beside subscribers that hang, and its memory
while a million events wait for a dead subscriber.

A private RabbitMQ and store, and two processes: the webhook service as it is put together, and the receiver.
Figures, no verdicts. `make bench ARGS=--webhooks`, or

    python -m tests.load.bench_webhooks [EVENTS [WAITING]]
"""

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit

import httpx
import uvloop

from shared.concurrency.clock import SystemClock, SystemIds
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.domain.subscription import BodyForm, Delivery, DeliveryQueueKey, Subscription
from shared.messaging.rabbit.broker import RabbitBroker
from shared.storage.events.deliveries import INDEXES, MongoDeliveries
from shared.storage.events.journal import MongoJournal
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.mongo import Mongo
from shared.storage.remote import RemoteDatabase, StoreServer
from shared.storage.sqlite import open_database
from tests.conftest import remove_topology
from tests.contract.stores import KEYRING
from tests.integration.test_webhook import running
from tests.load.environment import described
from tests.load.machine import bare_route
from tests.support.harness.processes import free_port
from tests.support.harness.servers import Rabbit, Store
from tests.support.harness.system import resident_megabytes

ME = (sys.executable, "-m", "tests.load.bench_webhooks")
EVENTS = 30_000
WAITING = 1_000_000
DEVICES = 64
BATCH = 100
SUBSCRIBERS, HANGING = 50, 10
BESIDE = 400
"""Events for each of many subscribers, ten a second."""
STORED_TOGETHER = 2_000
PATIENCE = 60.0
CLOCK, IDS = SystemClock(), SystemIds()
CREATED_AT = b'"created_at":"'


class Receiver(asyncio.Protocol):
    """Answers 200 at once, or never on a path that begins with /hang. `GET /` gets the counts."""

    events = 0
    first = last = 0.0
    late: list[float] = []  # noqa: RUF012 - one for the process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end]
            at = head.find(b"Content-Length: ")
            size = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._read) < end + 4 + size:
                return
            body, self._read = self._read[end + 4 : end + 4 + size], self._read[end + 4 + size :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            late = sorted(Receiver.late)
            p99 = late[len(late) * 99 // 100] if late else 0.0
            said = f"{Receiver.events} {Receiver.first} {Receiver.last} {p99}".encode()
            Receiver.events, Receiver.first, Receiver.late = 0, 0.0, []
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said
            )
        elif not head.startswith(b"POST /hang"):
            now = Receiver.last = time.time()
            Receiver.first = Receiver.first or now
            Receiver.events += body.count(CREATED_AT)
            if head.startswith(b"POST /timed"):
                at = body.index(CREATED_AT) + len(CREATED_AT)
                seconds = float(body[at + 17 : at + 29])
                Receiver.late.append((now % 60 - seconds) % 60)
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def receive(port: int) -> None:
    loop = asyncio.get_running_loop()
    await (await loop.create_server(Receiver, "127.0.0.1", port)).serve_forever()


async def serve(store: str, amqp_url: str, url: str) -> None:
    """The webhook service. A loopback receiver is allowed to it, as to an embedded one. `store`: a URL, or
    the folder of a store that another process serves."""
    async with AsyncExitStack() as stack:
        database = Mongo(store) if "://" in store else RemoteDatabase(Path(store))
        stack.push_async_callback(database.close)
        broker = RabbitBroker(amqp_url, clock=CLOCK)
        await broker.start(timedelta(seconds=30))
        stack.push_async_callback(broker.close)
        async with running(database, broker, url or None):
            gc.collect()
            gc.freeze()  # as a service does once it is ready
            await asyncio.Event().wait()


class Stage:
    """`urls`: of the store and the broker."""

    def __init__(self, urls: tuple[str, str], broker: RabbitBroker, receiver: str) -> None:
        self.receiver = receiver
        self.broker = broker
        self.urls = urls
        self.database = Mongo(urls[0])
        self.service: subprocess.Popen[bytes] | None = None

    def start(self, url: str = "") -> int:
        """Start the service; its process id."""
        self.service = subprocess.Popen([*ME, "--serve", *self.urls, url])
        return self.service.pid

    async def counts(self) -> tuple[int, float, float, float]:
        """Events since the last call, when the first and the last came, and their p99 in seconds."""
        async with httpx.AsyncClient() as client:
            events, first, last, late = (await client.get(self.receiver)).text.split()
        return int(events), float(first), float(last), float(late)

    async def subscribe(self, path: str, batch: int = 1) -> None:
        subscriptions = MongoSubscriptions(self.database, KEYRING)
        form = BodyForm(batch=batch)
        made = Subscription(path[1:], self.receiver + path, form=form, revision=IDS.new())
        await subscriptions.add(made)

    async def publish(self, count: int) -> None:
        for start in range(0, count, 512):
            events = [event(number) for number in range(start, min(start + 512, count))]
            assert all(await self.broker.publisher.publish(events))


def event(number: int) -> Event:
    device = f"A5EF1BA1-586D-4F29-B4F3-{number % DEVICES:012d}"
    key = EnrollmentKey(device, device, udid=device)
    now = CLOCK.time_ns()
    return Event(IDS.new(), Topic.CONNECT, key, now, b"<plist" * 130, "w", number, status="Idle")


@asynccontextmanager
async def stage(urls: tuple[str, str]) -> AsyncIterator[Stage]:
    await remove_topology(urls[1])
    broker = RabbitBroker(urls[1], clock=CLOCK)
    await broker.start(timedelta(seconds=30))
    port = free_port()
    receiver = subprocess.Popen([*ME, "--receive", str(port)])
    mongodb = urlunsplit(urlsplit(urls[0])._replace(path=f"/bench_{IDS.new()[-12:]}"))
    made = Stage((mongodb, urls[1]), broker, f"http://127.0.0.1:{port}")
    try:
        yield made
    finally:
        for process in (made.service, receiver):
            if process is not None:
                process.kill()
                process.wait()
        await made.database.close()
        await broker.close()


async def speed(urls: tuple[str, str], count: int, batch: int) -> float:
    """Events a second of a backlog: they wait on the broker before the process starts."""
    async with stage(urls) as made:
        await made.subscribe("/fast", batch)
        await made.publish(count)
        made.start()
        async with asyncio.timeout(PATIENCE):
            total, first, last = 0, 0.0, 0.0
            while total < count:
                await asyncio.sleep(0.2)
                with suppress(httpx.TransportError):
                    events, began, ended, _ = await made.counts()
                    total, first = total + events, first or began
                    last = ended if events else last
        return count / (last - first)


async def beside(urls: tuple[str, str], hanging: int) -> float:
    """The p99 in seconds from an event's creation to subscribers that do not hang."""
    async with stage(urls) as made:
        for number in range(SUBSCRIBERS):
            await made.subscribe(f"/{'hang' if number < hanging else 'timed'}-{number}")
        journal = MongoJournal(made.database, KEYRING)
        made.start()
        await asyncio.sleep(15)
        await made.counts()
        for number in range(BESIDE):
            one = event(number)
            assert all(await journal.append([one]))
            assert all(await made.broker.publisher.publish([one]))
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        events, _, _, late = await made.counts()
        assert events == BESIDE * (SUBSCRIBERS - hanging), events
        return late


async def memory(urls: tuple[str, str], count: int) -> float:
    """Megabytes of the process while so many events wait, as an outage leaves them. The store is another
    process's; SQLite's, since a million are stored there within a minute."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = open_database(folder, CLOCK)
        stack.push_async_callback(database.close)
        await database.ensure(INDEXES)
        stored = MongoDeliveries(database, KEYRING)
        # Only the first of each delivery queue is ever read: it is not taken.
        heads = [event(number) for number in range(DEVICES)]
        assert all(await MongoJournal(database, KEYRING).append(heads))
        for start in range(0, count, STORED_TOGETHER):
            numbers = range(start, min(start + STORED_TOGETHER, count))
            ids = [heads[n].id if n < DEVICES else IDS.new() for n in numbers]
            queues = [DeliveryQueueKey("config", heads[n % DEVICES].key.device) for n in numbers]
            each = zip(queues, ids, numbers, strict=True)
            await stored.store([Delivery(queue, id, number) for queue, id, number in each])
        server = StoreServer(database, folder)
        await server.start()
        stack.push_async_callback(server.close)
        made = await stack.enter_async_context(stage(urls))
        made.urls = (str(folder), urls[1])
        process = made.start(f"{made.receiver}/hang")
        await asyncio.sleep(60)
        return resident_megabytes(process)


def show(text: str) -> None:
    print(text, flush=True)


async def bench(urls: tuple[str, str], count: int, waiting: int) -> None:
    show(f"{described()}\nbare route: {bare_route() or 0:,.0f} requests/s")
    single = await speed(urls, count, 1)
    show(f"{single:,.0f} events/s, one a request, {DEVICES} delivery queues")
    batches = await speed(urls, count, BATCH)
    show(f"{batches:,.0f} events/s in batches of {BATCH}: {batches / single:.1f} times")
    show(f"bare route: {bare_route() or 0:,.0f} requests/s")
    without = await beside(urls, 0)
    show(f"{without * 1000:.1f} ms p99 to {SUBSCRIBERS} subscribers, none of which hangs")
    with_some = await beside(urls, HANGING)
    times = with_some / without
    show(f"{with_some * 1000:.1f} ms p99 beside {HANGING} that hang: {times:.2f} times")
    for some in (waiting // 100, waiting):
        show(f"{await memory(urls, some):.0f} MB while {some:,} events wait for a dead one")


def main(arguments: Sequence[str] = ()) -> None:
    given = [int(each) for each in arguments]
    count, waiting = given + [EVENTS, WAITING][len(given) :]
    with tempfile.TemporaryDirectory(prefix="mdm-bench-") as folder:
        servers = (Store(Path(folder, "store")), Rabbit(Path(folder, "rabbit")))
        try:
            for server in servers:
                server.start()
            uvloop.run(bench((servers[0].url, servers[1].url), count, waiting))
        finally:
            for server in servers:
                server.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--receive", port]:
            uvloop.run(receive(int(port)))
        case ["--serve", store, amqp_url, url]:
            uvloop.run(serve(store, amqp_url, url))
        case arguments:
            main(arguments)
