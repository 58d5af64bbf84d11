"""The broker's names: the one place that knows exchanges, queues, their arguments and bindings.

Promises: what is released never changes, because a broker refuses to declare a queue that exists with other
arguments, and old and new versions run side by side. `mdm.events` and its routing keys are public: bind a
separate queue to `mdm.#` for all of MicroMDM's events, and to `macromdm.#` for our own topics.

Owners: `mdm.events` and `push` are written through the ports of this package by every service; the
`webhook` service consumes `webhook.NN`, the `push` service consumes `push`, an operator `dead_lettered`.
"""

from dataclasses import dataclass
from typing import Any

from shared.domain.enrollment import PARTITIONS

EVENTS_EXCHANGE = "mdm.events"
PUSH_QUEUE = "push"
DEAD_LETTER_QUEUE = "parked"

DELIVERY_LIMIT = 1_000
"""Deliveries of one message before it is dead-lettered. Every restart and every move of a partition counts
one for what was under way, so it is far above what an outage takes; it only ends endless crashes."""

_DEAD_LETTER_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    # RabbitMQ 4 has a limit by default, and to look at a message and give it back counts.
    "x-delivery-limit": 1_000_000,
}
_LIMITED: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
    # Without these two a broker's crash on the way to `dead_lettered` loses the message.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue; `bindings` are its keys on the events exchange."""

    name: str
    arguments: dict[str, Any]
    bindings: tuple[str, ...] = ()


def partition_queue(partition: int) -> str:
    return f"webhook.{partition:02d}"


def routing_key(topic: str, partition: int) -> str:
    """`mdm.Connect.07`: part of the public contract."""
    return f"{topic}.{partition:02d}"


def queue_of(routing_key: str) -> str:
    """Our queue that gets a message with this key: events by their partition, the rest by its name."""
    partition = routing_key.rpartition(".")[2]
    return f"webhook.{partition}" if partition.isdigit() else routing_key


QUEUES = (
    Queue(DEAD_LETTER_QUEUE, _DEAD_LETTER_ARGUMENTS),
    Queue(PUSH_QUEUE, _LIMITED),
    *(
        Queue(
            partition_queue(partition),
            {**_LIMITED, "x-single-active-consumer": True},
            bindings=(f"mdm.*.{partition:02d}", f"macromdm.*.{partition:02d}"),
        )
        for partition in range(PARTITIONS)
    ),
)
