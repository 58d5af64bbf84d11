"""Events that follow from a message of a device: how a command went, and how an enrollment begins or ends.

Promises: they are made only while some subscription asks for them; a repetition of the message makes the
same ids. The event of an answer says what was known when that was journaled. The event of an enrollment, or
of its end, is kept in the record of its device by the very write that makes it true, until it is journaled.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson

from services.checkin.exchange import DeviceExchange
from services.checkin.journal.writer import Writer
from services.checkin.pipeline.commands import STATES
from services.checkin.pipeline.device_auth import SMALL_BODY
from services.runtime.wanted_topics import WantedTopics
from shared.apple.messages.connect import Status
from shared.apple.plist.to_json import message_as_json
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.command import entry_id
from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import Unavailable
from shared.domain.event import FACTS_VERSION, Event, Topic, derived_id, milliseconds_of
from shared.domain.outbox import OutboxEvent, checked_out, enrolled
from shared.ports.identities import Identities, Outgoing
from shared.ports.queue import CommandQueue
from shared.times import nanoseconds

LARGEST_ANSWER = 256 * 1024
"""Bytes of an answer as JSON; the event of a larger one has a link."""
LARGEST_READ = 512 * 1024
"""Bytes of a property list that is read for an event: its batch waits meanwhile."""
MILLISECOND = 10**6

_ANSWERED = {
    Status.ACKNOWLEDGED: Topic.COMMAND_ACKNOWLEDGED,
    Status.ERROR: Topic.COMMAND_FAILED,
    Status.COMMAND_FORMAT_ERROR: Topic.COMMAND_FAILED,
    Status.NOT_NOW: Topic.COMMAND_NOT_NOW,
}
_THERE = (EnrollmentStatus.AUTHENTICATED, EnrollmentStatus.ENROLLED)


class DerivedEvents:
    """`work` reads large answers."""

    def __init__(
        self,
        wanted: WantedTopics,
        queue: CommandQueue,
        identities: Identities,
        writer: Writer,
        work: HeavyWork,
    ) -> None:
        self.wanted = wanted
        self._queue = queue
        self._identities = identities
        self._writer = writer
        self._work = work

    async def look(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the entries on which these connects report, where a subscription asks for that."""
        if self.wanted.now.isdisjoint(_ANSWERED.values()):
            return
        ids = {}
        for exchange in exchanges:
            _, command_uuid = exchange.handler.result(exchange.message)
            if command_uuid is not None:
                ids[exchange] = entry_id(exchange.message.key.id, command_uuid)
        found = await self._queue.entries_of(set(ids.values())) if ids else {}
        for exchange, id_ in ids.items():
            exchange.reported = found.get(id_)

    async def of(self, exchange: DeviceExchange, cause: Event) -> list[Event]:
        """The events that follow from the message that is about to be journaled as `cause`."""
        if exchange.device is None or cause.topic is not Topic.CONNECT:
            return []
        return await self._answered(exchange, cause)

    def of_changes(self, exchanges: Sequence[DeviceExchange], now: datetime) -> None:
        """Set the events that the changes of journaled messages keep. Each is made from the record as read,
        which is the condition of the change."""
        for exchange in exchanges if self.wanted.now else ():
            event = _of_change(exchange, nanoseconds(now))
            is_wanted = event is not None and event.topic in self.wanted.now
            exchange.outbox_event = event if is_wanted else None

    def of_outcome(self, exchange: DeviceExchange) -> Event | None:
        """The event of the change that was applied, or of the command that is sent in the answer."""
        if (kept := exchange.outbox_event) is not None:
            return self._made(kept.id, kept.topic, exchange.unsafe[-1], kept.facts)
        return self._sent(exchange)

    async def forget(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Take the events that are journaled now out of the records of these devices. Where that fails, the
        outbox publishes them once more."""
        with suppress(Unavailable):
            await self._identities.published(
                [
                    Outgoing(exchange.device, exchange.outbox_event)
                    for exchange in exchanges
                    if exchange.device is not None and exchange.outbox_event is not None
                ]
            )

    def _sent(self, exchange: DeviceExchange) -> Event | None:
        entry, cause = exchange.next, exchange.event
        is_wanted = Topic.COMMAND_SENT in self.wanted.now
        if not is_wanted or exchange.sent_by is None or entry is None or cause is None:
            return None
        facts = {
            "version": FACTS_VERSION,
            "request_type": entry.request_type,
            "attempt": entry.attempts + 1,
        }
        id_ = derived_id(f"{entry.id}\0{exchange.sent_by}", cause.created_at // MILLISECOND)
        return self._made(id_, Topic.COMMAND_SENT, exchange.unsafe[-1], facts, entry.command_uuid)

    async def _answered(self, exchange: DeviceExchange, cause: Event) -> list[Event]:
        entry = exchange.reported
        if entry is None or cause.status is None:
            return []
        status = Status(cause.status)
        topic, state = _ANSWERED[status], STATES[status]
        is_of_past = entry.generation not in (None, exchange.generation)
        late = None if entry.late_answer is None else entry.late_answer.state
        is_repeated = state in (entry.state, late)
        is_asked = topic in self.wanted.now and not is_of_past and not is_repeated
        if not is_asked or entry.handed_at is None:
            return []
        answer = await self._answer(exchange.body)
        link = f"/v1/commands/{quote(entry.enrollment)}/{quote(entry.command_uuid, safe='')}"
        facts = {
            "version": FACTS_VERSION,
            "request_type": entry.request_type,
            "state": entry.state.value if entry.state.is_final else state.value,
            "status": status.value,
            "answer": None if answer is None else orjson.Fragment(answer),
            "answer_url": link if answer is None else None,
        }
        id_ = derived_id(
            f"{entry.id}\0{entry.order}\0{entry.handed_by}\0{topic}",
            nanoseconds(entry.handed_at) // MILLISECOND,
        )
        return [self._made(id_, topic, cause, facts, entry.command_uuid)]

    async def _answer(self, body: bytes) -> bytes | None:
        """The JSON of an answer. None: it is too large, or cannot be read."""
        if len(body) <= SMALL_BODY:
            return _json_of(body)
        if len(body) > LARGEST_READ:
            return None
        try:
            return await self._work.do(_json_of, body)
        except Unavailable:
            return None

    def _made(
        self,
        id_: str,
        topic: Topic,
        cause: Event,
        facts: Mapping[str, Any],
        command_uuid: str | None = None,
    ) -> Event:
        """`cause`: the event behind which it comes."""
        number, at = self._writer.stamp(after=cause.created_at)
        return Event(
            id=id_,
            topic=topic,
            key=cause.key,
            created_at=at,
            raw_payload=orjson.dumps(dict(facts)),
            writer=self._writer.id,
            number=number,
            command_uuid=command_uuid,
        )


def _of_change(exchange: DeviceExchange, at: int) -> OutboxEvent | None:
    device, cause = exchange.device, exchange.event
    if device is None or cause is None or not cause.key.is_device_channel:
        return None
    if cause.topic is Topic.TOKEN_UPDATE and not device.has_enrolled and device.generation:
        of_enrollment = f"{device.id}\0{device.generation}"
        id_ = derived_id(of_enrollment, milliseconds_of(device.generation))
        return enrolled(id_, at, device)
    if cause.topic is Topic.CHECK_OUT and device.status in _THERE:
        return checked_out(derived_id(cause.id, milliseconds_of(cause.id)), at)
    return None


def _json_of(body: bytes) -> bytes | None:
    shown, _ = message_as_json(body, LARGEST_ANSWER)
    answer = b"" if shown is None else orjson.dumps(shown)
    return answer if 0 < len(answer) <= LARGEST_ANSWER else None
