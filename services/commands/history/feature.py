"""Wires the views of commands, and the calls that wait for them."""

from services.commands.history.cancel import OpenCommands
from services.commands.history.listing import EntryList
from services.commands.history.long_poll import LongPoll
from services.commands.history.lookup import CommandLookup
from services.commands.history.routes import history_routes, list_routes
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.targets import Targets
from services.runtime.adapters import Adapters
from shared.settings import CommandsSettings
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def history_feature(
    settings: CommandsSettings,
    adapters: Adapters,
    targets: Targets,
    reconciler: Reconciler,
    auth: ApiAuth,
) -> tuple[CommandLookup, LongPoll, Feature]:
    stores, queue, clock = adapters.stores, adapters.stores.queue, adapters.clock
    lookup = CommandLookup(queue, stores.pushes, stores.journal, targets, reconciler)
    poll = LongPoll(queue, clock, settings.max_wait, settings.max_waiting)
    open_commands = OpenCommands(queue, targets, reconciler, adapters.wanted)
    routers = (
        list_routes(EntryList(queue, reconciler, clock), targets, auth),
        history_routes(lookup, open_commands, poll, auth),
    )
    return lookup, poll, Feature(routers=routers, workers=(poll.run,), release=poll.stop)
