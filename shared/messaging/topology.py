"""The broker's names: the one place that knows exchanges, queues, their arguments and bindings.

Promises: declaring is idempotent and may be done by anybody at any time. `mdm.events` and its routing
keys are public: whoever wants all events binds a queue of their own to `mdm.#`.

Owners: `mdm.events` and `push` are written through the ports of this package by every service; the
`webhook` service consumes `webhook.NN`, the `push` service consumes `push`, an operator `parked`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from shared.domain.enrollment import PARTITIONS

EVENTS_EXCHANGE = "mdm.events"
PUSH_QUEUE = "push"
PARKED_QUEUE = "parked"

DELIVERY_LIMIT = 1_000
"""Deliveries of one message before it is parked. Every restart and every move of a partition counts
one for what was under way, so it is far above what an outage takes; it only ends endless crashes."""

_PARKED_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    # RabbitMQ 4 has a limit by default, and whoever looks at a message and gives it back counts.
    "x-delivery-limit": 1_000_000,
}
_LIMITED: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": PARKED_QUEUE,
    # Without these two a broker's crash on the way to `parked` loses the message.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue; `binding` is its key on the events exchange, None where it has none."""

    name: str
    arguments: dict[str, Any]
    binding: str | None = None


def partition_queue(partition: int) -> str:
    return f"webhook.{partition:02d}"


def routing_key(topic: str, partition: int) -> str:
    """`mdm.Connect.07`: part of the public contract."""
    return f"{topic}.{partition:02d}"


QUEUES = (
    Queue(PARKED_QUEUE, _PARKED_ARGUMENTS),
    Queue(PUSH_QUEUE, _LIMITED),
    *(
        Queue(
            partition_queue(partition),
            {**_LIMITED, "x-single-active-consumer": True},
            binding=f"mdm.*.{partition:02d}",
        )
        for partition in range(PARTITIONS)
    ),
)


class DeclaringChannel(Protocol):
    """What declaring needs of an AMQP channel."""

    async def exchange_declare(
        self, exchange: str, *, exchange_type: str, durable: bool
    ) -> object: ...

    async def queue_declare(
        self, queue: str, *, durable: bool, arguments: dict[str, Any]
    ) -> object: ...

    async def queue_bind(self, queue: str, exchange: str, routing_key: str) -> object: ...


async def declare(channel: DeclaringChannel) -> None:
    """Make everything that is missing. Raises what the channel raises; no timeout of its own."""
    await channel.exchange_declare(EVENTS_EXCHANGE, exchange_type="topic", durable=True)
    for queue in QUEUES:
        await channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
        if queue.binding is not None:
            await channel.queue_bind(queue.name, EVENTS_EXCHANGE, queue.binding)
