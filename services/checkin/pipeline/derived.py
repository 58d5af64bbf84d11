"""Events that follow from a message of a device: how a command went, and how an enrollment begins or ends.

Promises: they are made only while some subscription asks for them; a repetition of the message makes the
same ids. The event of an answer says what was known when that was journaled. The event of an enrollment, or
of its end, is kept in the record of its device by the very write that makes it true, until it is journaled.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from urllib.parse import quote

import orjson

from services.checkin.exchange import Derived, DeviceExchange
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
"""Bytes of a property list that is read for an event: its device waits meanwhile."""
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

    async def read(self, exchange: DeviceExchange) -> None:
        """Read a large answer, before its request goes into a batch, which would wait for that."""
        status, command_uuid = exchange.handler.result(exchange.message)
        if command_uuid is None or status is None or len(exchange.body) > LARGEST_READ:
            return
        if _ANSWERED[Status(status)] in self.wanted.now:
            with suppress(Unavailable):
                exchange.answer_read = await self._work.do(_json_of, exchange.body)

    async def look(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the entries on which these connects report, and prepare the events of their answers, where a
        subscription asks for them."""
        if self.wanted.now.isdisjoint(_ANSWERED.values()):
            return
        ids = {}
        for exchange in exchanges:
            _, command_uuid = exchange.handler.result(exchange.message)
            if command_uuid is not None and exchange.error is None:
                ids[exchange] = entry_id(exchange.message.key.id, command_uuid)
        found = await self._queue.entries_of(set(ids.values())) if ids else {}
        for exchange, id_ in ids.items():
            exchange.reported = found.get(id_)
            exchange.follows_from_answer = self._of_answer(exchange)

    def of(self, exchange: DeviceExchange, cause: Event) -> list[Event]:
        """The events that follow from the message that is about to be journaled as `cause`."""
        made = exchange.follows_from_answer
        return [] if made is None else [self._stamped(made, cause)]

    def of_changes(self, exchanges: Sequence[DeviceExchange], now: datetime) -> None:
        """Set the events that the changes of journaled messages keep. Each is made from the record as read,
        which is the condition of the change."""
        for exchange in exchanges:
            event = _of_change(exchange, nanoseconds(now))
            is_wanted = event is not None and event.topic in self.wanted.now
            exchange.outbox_event = event if is_wanted else None

    def of_outcome(self, exchange: DeviceExchange) -> Event | None:
        """The event of the change that was applied, or of the command that is sent in the answer."""
        kept = exchange.outbox_event
        if kept is not None and exchange.device is not None and exchange.device.is_behind:
            return None  # the outbox publishes it, behind what it has of this device
        made = self._of_sent(exchange) if kept is None else Derived(kept.id, kept.topic, kept.facts)
        return None if made is None else self._stamped(made, exchange.unsafe[-1])

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

    def _of_sent(self, exchange: DeviceExchange) -> Derived | None:
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
        return Derived(id_, Topic.COMMAND_SENT, facts, entry.command_uuid)

    def _of_answer(self, exchange: DeviceExchange) -> Derived | None:
        entry, (given, _) = exchange.reported, exchange.handler.result(exchange.message)
        if entry is None or given is None or exchange.device is None:
            return None
        status = Status(given)
        topic, state = _ANSWERED[status], STATES[status]
        is_of_past = entry.generation not in (None, exchange.generation)
        late = None if entry.late_answer is None else entry.late_answer.state
        is_repeated = state in (entry.state, late)
        is_asked = topic in self.wanted.now and not is_of_past and not is_repeated
        if not is_asked or entry.handed_at is None:
            return None
        is_small = len(exchange.body) <= SMALL_BODY
        answer = _json_of(exchange.body) if is_small else exchange.answer_read
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
            f"{entry.id}\0{entry.handed_by}\0{topic}",
            nanoseconds(entry.handed_at) // MILLISECOND,
        )
        return Derived(id_, topic, facts, entry.command_uuid)

    def _stamped(self, made: Derived, cause: Event) -> Event:
        """`cause`: the event behind which it comes."""
        number, at = self._writer.stamp(after=cause.created_at)
        return Event(
            id=made.id,
            topic=made.topic,
            key=cause.key,
            created_at=at,
            raw_payload=orjson.dumps(dict(made.facts)),
            writer=self._writer.id,
            number=number,
            command_uuid=made.command_uuid,
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
