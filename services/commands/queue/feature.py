"""Wires the queueing of commands."""

from services.commands.queue.priority import Priority
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.requeue import EntryResolver, PublishEnd, QueueRules
from services.commands.queue.service import Advise, QueueService
from services.commands.queue.targets import Targets
from services.runtime.adapters import Adapters
from shared.settings import CommandsSettings
from shared.web.server.service import Feature


def queue_feature(
    settings: CommandsSettings,
    adapters: Adapters,
    targets: Targets,
    reconciler: Reconciler,
    publish_end: PublishEnd,
    advise: Advise,
    priority: Priority,
) -> tuple[QueueService, Feature]:
    queue, clock = adapters.stores.queue, adapters.clock
    rules = QueueRules(
        settings.retry_window, settings.accept_unknown_devices, settings.max_open_commands
    )
    service = QueueService(
        queue,
        targets,
        adapters.push_requests,
        adapters.ids,
        adapters.metrics,
        advise,
        EntryResolver(queue, targets, reconciler, publish_end, clock, rules),
        priority,
    )
    return service, Feature(drain=service.drain)
