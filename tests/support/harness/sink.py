"""A receiver of webhooks that writes down every event and behaves as badly as it is told.

In a test: `async with Sink() as sink: ... sink.url, sink.arrivals`. As a process:
`python -m tests.support.harness.sink --port P --record FILE` appends one JSON line per request that came in
whole; `PUT /behaviour` with `{"kind": "status", "status": 500}` changes what it does, `GET /stats`
counts. Raw asyncio, since it has to take thousands of events a second beside the servers under test.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, TextIO

import orjson

from tests.support.harness.sink_connection import OK, Behaviour, Kind, Link

__all__ = ["OK", "Arrival", "Behaviour", "Kind", "Sink", "read_record"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request, complete. `at` and `order` say when it came; `was_taken`: it was answered 2xx."""

    order: int
    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    was_taken: bool
    event: dict[str, Any] = field(repr=False)

    @property
    def event_id(self) -> str:
        return str(self.event.get("event_id", ""))

    @property
    def device(self) -> str:
        """The device of the event, without the user of a user channel."""
        names = ("checkin_event", "acknowledge_event", "command_event")
        inner: dict[str, Any] = next((self.event[n] for n in names if self.event.get(n)), {})
        return str(inner.get("udid") or inner.get("enrollment_id") or self.event.get("device", ""))


Script = Callable[[dict[str, Any]], Behaviour]


class Sink:
    """Serves on a loopback port until the context ends. `script` decides per event; `behaviour` is
    for all where there is no script."""

    def __init__(self, *, script: Script | None = None, record: TextIO | None = None) -> None:
        self.behaviour = OK
        self.script = script
        self.arrivals: list[Arrival] = []
        self.connections = 0
        self.open_requests = 0
        self._record = record
        self._count = 0
        self._ids: set[str] = set()
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhook"

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the port and every connection; `start(sink.port)` brings it back."""
        if self._server is not None:
            self._server.close()
            for link in list(self._links):
                link.abort()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def taken(self) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.was_taken]

    def first_taken(self, device: str) -> list[str]:
        """Event ids of a device in the order of their first successful delivery."""
        ids = [arrival.event_id for arrival in self.taken if arrival.device == device]
        return list(dict.fromkeys(ids))

    def count_of(self, event_id: str) -> int:
        return sum(arrival.event_id == event_id for arrival in self.arrivals)

    async def wait_for(self, events: int, timeout: float = 10.0) -> None:
        """Until that many different events were taken."""
        async with asyncio.timeout(timeout):
            while len({arrival.event_id for arrival in self.taken}) < events:
                await asyncio.sleep(0.01)

    def decide(self, path: str, headers: dict[str, str], body: bytes) -> Behaviour:
        """Write a request down and say how to answer it."""
        try:
            event = orjson.loads(body)
        except ValueError:
            event = {}
        chosen = self.script(event) if self.script else self.behaviour
        was_taken = chosen.kind is Kind.STATUS and 200 <= chosen.status < 300
        self._count += 1
        arrival = Arrival(self._count, time.time(), path, headers, body, was_taken, event)
        self._ids.add(arrival.event_id)
        if self._record is None:
            self.arrivals.append(arrival)
        else:
            self._record.write(_line(arrival))
            self._record.flush()
        return chosen

    def control(self, path: str, body: bytes) -> bytes:
        """The two requests that are no events."""
        if path == "/behaviour" and body:
            given = orjson.loads(body)
            if "kind" in given:
                given["kind"] = Kind(given["kind"])
            self.behaviour = replace(OK, **given)
        return orjson.dumps(
            {
                "behaviour": asdict(self.behaviour),
                "requests": self._count,
                "events": len(self._ids),
                "connections": self.connections,
            }
        )

    def opened(self, link: Link) -> None:
        self.connections += 1
        self._links.add(link)

    def closed(self, link: Link) -> None:
        self._links.discard(link)


def _line(arrival: Arrival) -> str:
    """One line of the record; `read_record` is its reverse."""
    return (
        orjson.dumps(
            {
                "order": arrival.order,
                "at": arrival.at,
                "path": arrival.path,
                "was_taken": arrival.was_taken,
                "body": arrival.body.decode("utf-8", "replace"),
            }
        ).decode()
        + "\n"
    )


def read_record(lines: str) -> list[Arrival]:
    """The arrivals that a sink process has recorded; a last line still being written is left out."""
    arrivals = []
    for line in lines.splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        written = orjson.loads(line)
        body = written["body"].encode()
        try:
            event = orjson.loads(body)
        except ValueError:
            event = {}
        arrivals.append(
            Arrival(
                written["order"],
                written["at"],
                written["path"],
                {},
                body,
                written["was_taken"],
                event,
            )
        )
    return arrivals


async def _serve_process(host: str, port: int, record: TextIO) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    sink = await Sink(record=record).start(port, host)
    print(sink.url, flush=True)
    await stopping.wait()
    await sink.stop()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.harness.sink")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", required=True, help="file to append one line per request to")
    given = parser.parse_args(arguments)
    with open(given.record, "a", encoding="utf-8") as record:
        asyncio.run(_serve_process(given.host, given.port, record))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
