"""The cases of the models: where the rules hold, and one for each rule that is broken."""

from tests.models.collapse_keys import CollapseKeys
from tests.models.command_queue import CommandQueue
from tests.models.command_queue_states import Budget as QueueBudget
from tests.models.delivery_queue_states import Budget as DeliveryQueueBudget
from tests.models.delivery_queues import DeliveryQueues
from tests.models.explorer import Model, Verdict
from tests.models.janitor import Janitor
from tests.models.journal import Journal
from tests.models.journal_states import Budget
from tests.models.local_broker import LocalBroker
from tests.models.own_events import OwnEvents
from tests.models.renewals import Budget as RenewalBudget
from tests.models.renewals import Renewals
from tests.models.reviews import Reviews
from tests.models.subscribing import Subscribing
from tests.models.token_updates import TokenUpdates
from tests.models.unanswered import Budget as UnansweredBudget
from tests.models.unanswered import Unanswered

ONE_RELAY = {"relays": (0,)}
AWAY = {"away": frozenset({0}), "relays": (0,)}

HOLDS: dict[str, Model] = {
    "a confirm is lost": Journal((2,), Budget(bad=1)),
    "a clock jumps": Journal((2,), Budget(bad=1), clocks_jump=True, **ONE_RELAY),
    "a replica is killed": Journal((2,), Budget(bad=1, kills=1), **ONE_RELAY),
    "an insert comes late": Journal((2,), Budget(bad=1, unknown=1), **ONE_RELAY),
    "a writer is taken over": Journal((2,), Budget(bad=1, takeovers=1), **ONE_RELAY),
    "a device gives up": Journal((2,), Budget(impatience=1), **ONE_RELAY),
    "a clock is ahead beside another device": Journal((2, 1), Budget(bad=1), **ONE_RELAY),
    "a partition is away": Journal((1, 2), Budget(bad=1), **AWAY),
    "a confirm is lost, events follow": Journal((2,), Budget(bad=1), followers=True),
    "a replica is killed, events follow": Journal(
        (2,), Budget(bad=1, kills=1), followers=True, **ONE_RELAY
    ),
    "a writer is taken over, events follow": Journal(
        (2,), Budget(bad=1, takeovers=1), followers=True, **ONE_RELAY
    ),
    "a device gives up, events follow": Journal(
        (2,), Budget(impatience=1), followers=True, **ONE_RELAY
    ),
    "an insert is late, events follow": Journal(
        (2,), Budget(bad=1, unknown=1), followers=True, **ONE_RELAY
    ),
    "an event of ours, a confirm is lost": OwnEvents((2,), Budget(bad=1), **ONE_RELAY),
    "an event of ours, the pass is killed": OwnEvents((1,), Budget(bad=1, kills=1), **ONE_RELAY),
    "a subscription is made, a replica is cut off": Subscribing(cuts=2),
    "a subscription is made, a replica stays cut off": Subscribing(cuts_end=False),
    "two events of ours, clocks differ": OwnEvents((1,), Budget(bad=1), changes=2, **ONE_RELAY),
    "two events of ours, passes are killed": OwnEvents(
        (0,), Budget(bad=2, kills=2), changes=2, **ONE_RELAY
    ),
    "tokens, a device gives up": TokenUpdates(),
    "tokens, a device enrolls again": TokenUpdates(impatience=1, enrollments=1),
    "tokens, a client removes the device": TokenUpdates(impatience=1, removals=2),
    "tokens, removed beside an enrollment": TokenUpdates(impatience=1, enrollments=1, removals=1),
    "renewal, any message first": Renewals(RenewalBudget(renewals=1, early=1, impatience=2)),
    "renewal, then a new enrollment": Renewals(
        RenewalBudget(renewals=1, enrollments=1, early=1, impatience=1)
    ),
    "two renewals": Renewals(RenewalBudget(renewals=2, impatience=1)),
    "renewal beside a CheckOut": Renewals(
        RenewalBudget(renewals=1, check_outs=1, early=1, impatience=1)
    ),
    "a CheckOut beside an update": Renewals(
        RenewalBudget(renewals=1, check_outs=1, updates=1, impatience=2)
    ),
    "renewal beside a removal": Renewals(
        RenewalBudget(renewals=1, removals=1, early=1, impatience=1)
    ),
    "collapse keys, clocks differ": CollapseKeys(repeats=0),
    "command, enrolling beside a cancel": CommandQueue(QueueBudget(enrollments=1, cancels=1)),
    "command, given up beside a cancel": CommandQueue(QueueBudget(impatience=1, cancels=1)),
    "command, posted twice": CommandQueue(QueueBudget(cancels=1, not_now=1), posts=2),
    "unanswered, given up": Unanswered(budget=UnansweredBudget(impatience=1)),
    "unanswered, a process dies": Unanswered(budget=UnansweredBudget(kills=1)),
    "unanswered, put off": Unanswered(budget=UnansweredBudget(not_now=1), idles=11),
    "unanswered, two of three": Unanswered(
        ("never", "never", "done"), UnansweredBudget(impatience=1), idles=12
    ),
    "unanswered, behind one that is put off each time": Unanswered(
        ("later", "never", "done"), UnansweredBudget(impatience=1), idles=10
    ),
    "lane, attempts fail": DeliveryQueues((1, 2, 3), DeliveryQueueBudget(bad=2)),
    "lane, a partition moves": DeliveryQueues((1, 2), DeliveryQueueBudget(bad=1, moves=1)),
    "lane, a replica is killed": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=1, kills=1, leases=1)
    ),
    "lane, an attempt arrives late": DeliveryQueues((1, 2), DeliveryQueueBudget(bad=1, late=1)),
    "lane, an event is set aside": DeliveryQueues((1, 2, 3), DeliveryQueueBudget(bad=2, aside=1)),
    "lane, set aside beside a kill": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=1, aside=1, kills=1)
    ),
    "lane, set aside by one that was stopped": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=2, aside=1, leases=1)
    ),
    "lane, a subscription is paused": DeliveryQueues((1, 2), DeliveryQueueBudget(bad=1, pauses=1)),
    "lane, a subscription with history": DeliveryQueues(
        (2, 3), DeliveryQueueBudget(), history=(1,)
    ),
    "lane, history of events that are live too": DeliveryQueues(
        (1, 2, 3), DeliveryQueueBudget(), history=(1, 2)
    ),
    "lane, an event is skipped and retried": DeliveryQueues(
        (1, 2, 3), DeliveryQueueBudget(bad=2, skips=1)
    ),
    "in-process broker": LocalBroker(),
    "janitor": Janitor(),
    "review of silent devices": Reviews(),
}

LARGER: dict[str, Model] = {
    "three messages, two confirms lost": Journal((3,), Budget(bad=2)),
    "a clock jumps, two relays": Journal((3,), Budget(bad=2), clocks_jump=True),
    "a device gives up, a confirm is lost": Journal((2,), Budget(bad=1, impatience=1), **ONE_RELAY),
    "a publish comes late": Journal((2,), Budget(late=1, impatience=1), **ONE_RELAY),
    "two confirms lost, a replica killed": Journal((2,), Budget(bad=2, kills=1)),
    "a partition is away, two relays": Journal((1, 2), Budget(bad=1), away=frozenset({0})),
    "a partition is away, a replica killed": Journal((1, 2), Budget(kills=1), **AWAY),
    "command, everything once": CommandQueue(QueueBudget(1, 1, 1, 1)),
    "command, posted anew": CommandQueue(
        QueueBudget(impatience=1, cancels=1), posts=2, retries="never"
    ),
    "command, enrolling twice": CommandQueue(QueueBudget(impatience=1, enrollments=2)),
    "lane, a replica is cut off": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=2, cuts=1, leases=1)
    ),
    "lane, paused beside a kill": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=1, pauses=1, kills=1)
    ),
    "lane, history while a partition moves": DeliveryQueues(
        (2, 3), DeliveryQueueBudget(bad=1, moves=1), history=(1,)
    ),
    "lane, history of what is live too while a partition moves": DeliveryQueues(
        (1, 2, 3), DeliveryQueueBudget(moves=1), history=(1, 2)
    ),
    "lane, history of what is live too beside a kill": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=1, kills=1, leases=1), history=(1, 2)
    ),
    "lane, skipped and retried while a partition moves": DeliveryQueues(
        (1, 2, 3), DeliveryQueueBudget(bad=1, skips=1, moves=1)
    ),
    "lane, history beside a kill": DeliveryQueues(
        (2,), DeliveryQueueBudget(bad=1, kills=1, leases=1), history=(1,)
    ),
    "lane, killed and cut off": DeliveryQueues((1, 2), DeliveryQueueBudget(bad=1, cuts=1, kills=1)),
    "lane, set aside while a partition moves": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=1, aside=1, moves=1)
    ),
    "lane, set aside by one that is cut off": DeliveryQueues(
        (1, 2), DeliveryQueueBudget(bad=1, aside=1, cuts=1, leases=1)
    ),
    "tokens, three and an enrollment": TokenUpdates(tokens=3, impatience=3, enrollments=1),
    "renewal, CheckOut and a new enrollment": Renewals(
        RenewalBudget(renewals=1, enrollments=1, check_outs=1, impatience=2)
    ),
    "collapse keys, a repeated post": CollapseKeys(),
    "collapse keys, three commands": CollapseKeys(commands=3, repeats=0),
    "unanswered, everything once": Unanswered(budget=UnansweredBudget(1, 1, 1), idles=14),
    "unanswered, two of three, given up and put off": Unanswered(
        ("never", "done", "never"), UnansweredBudget(impatience=1, not_now=1), idles=18
    ),
}

BROKEN: dict[str, tuple[Model, Verdict, str]] = {
    "rule 8: a plain mark": (
        Journal((2,), Budget(bad=2, impatience=1), mark="set"),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: a mark without a count": (
        Journal((3,), Budget(bad=2, impatience=1), clocks=(11, 0), relays=(1,), mark="widened"),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: the relay reads events before the mark": (
        Journal((3,), Budget(bad=2), events_first=True),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: since moves though the mark was raised": (
        Journal((2,), Budget(bad=2, takeovers=1), relay_moves="always", **ONE_RELAY),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: DELETE takes the mark away": (
        Journal((2,), Budget(bad=1, deletions=1), **ONE_RELAY),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: an event of ours does not wait": (
        OwnEvents((1,), Budget(bad=1), stays_behind=False, **ONE_RELAY),
        Verdict.UNSAFE,
        "an event of ours overtook",
    ),
    "rule 8: an event of ours has its own time": (
        OwnEvents((1,), Budget(bad=1), clocks=(0, 11), is_later=False, **ONE_RELAY),
        Verdict.UNSAFE,
        "an event of ours overtook",
    ),
    "rule 8: an event of a user channel looks for a mark of its own": (
        OwnEvents((1,), Budget(bad=1), reads_device=False, **ONE_RELAY),
        Verdict.UNSAFE,
        "an event of ours overtook",
    ),
    "rule 8: clocks say which event of ours was first": (
        OwnEvents((0,), Budget(), changes=2, order="time", **ONE_RELAY),
        Verdict.UNSAFE,
        "that of an earlier change",
    ),
    "rule 8: an event of ours is forgotten without a mark": (
        OwnEvents((1,), Budget(bad=1), is_marked=False, **ONE_RELAY),
        Verdict.STUCK,
        "",
    ),
    "rule 11: a replica that is cut off acks for the subscriptions that it knew": (
        Subscribing(waits=False),
        Verdict.UNSAFE,
        "acked without a subscription",
    ),
    "rule 11: a replica that stays cut off keeps its partitions": (
        Subscribing(leaves=False, cuts_end=False),
        Verdict.STUCK,
        "",
    ),
    "rule 1: the event of an enrollment is journaled with its message": (
        TokenUpdates(impatience=1, enrollments=1, event="journaled"),
        Verdict.UNSAFE,
        "did not come to be",
    ),
    "rule 1: a removal by a client is no change of what a message read": (
        TokenUpdates(impatience=0, removals=1, removal_is_change=False),
        Verdict.UNSAFE,
        "told before the removal",
    ),
    "rule 6: what is there already is left to its writer": (
        Journal((1,), Budget(unknown=1), followers=True, there_is_marked=False, **ONE_RELAY),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: a writer's time follows the mark of a device": (
        Journal((2, 1), Budget(bad=1), time_follows_mark=True, **ONE_RELAY),
        Verdict.UNSAFE,
        "the clock of another replica",
    ),
    "rule 8: what follows does not wait for its cause": (
        Journal((1,), Budget(bad=1), followers=True, follower_waits=False, **ONE_RELAY),
        Verdict.UNSAFE,
        "published out of order",
    ),
    "rule 8: a mark of the cause alone": (
        Journal((1,), Budget(bad=1), followers=True, mark="first", **ONE_RELAY),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 9: the relay stays with what is not taken": (
        Journal((1, 2), Budget(bad=1), relay_insists=True, **AWAY),
        Verdict.STUCK,
        "",
    ),
    "rule 1: a token written on condition of the generation alone": (
        TokenUpdates(condition="generation"),
        Verdict.UNSAFE,
        "the record holds 1",
    ),
    "rule 1: the connection is looked at before the record is read": (
        TokenUpdates(order=("look", "read")),
        Verdict.UNSAFE,
        "the record holds 1",
    ),
    "rule 16: a repeated Authenticate renews nothing": (
        Renewals(RenewalBudget(renewals=1, impatience=1), repeats=False),
        Verdict.UNSAFE,
        "an enrollment is forgotten",
    ),
    "rule 16: a TokenUpdate of before ends the renewal": (
        Renewals(RenewalBudget(renewals=1, early=1, impatience=1), ends="any"),
        Verdict.UNSAFE,
        "an enrollment is forgotten",
    ),
    "rule 16: a renewal has no end": (
        Renewals(RenewalBudget(renewals=1, enrollments=1), ends="none"),
        Verdict.UNSAFE,
        "goes on with the one before",
    ),
    "rule 16: a new enrollment ends no renewal": (
        Renewals(RenewalBudget(renewals=1, check_outs=1, early=1, enrollments=1), new_ends=False),
        Verdict.UNSAFE,
        "goes on with the one before",
    ),
    "rule 16: a renewal ends whatever is bound": (
        Renewals(RenewalBudget(renewals=2, impatience=1), named=False),
        Verdict.UNSAFE,
        "an enrollment is forgotten",
    ),
    "rule 1: an Authenticate on condition of the generation alone": (
        Renewals(
            RenewalBudget(renewals=1, removals=1, early=1, impatience=1), condition="generation"
        ),
        Verdict.UNSAFE,
        "an enrollment is forgotten",
    ),
    "rule 1: a CheckOut on condition of the generation alone": (
        Renewals(RenewalBudget(renewals=1, check_outs=1, impatience=1), check_out="generation"),
        Verdict.UNSAFE,
        "a CheckOut that was given up",
    ),
    "rule 1: a CheckOut that was overtaken is refused": (
        Renewals(RenewalBudget(check_outs=1, updates=1, impatience=1), again="refused"),
        Verdict.UNSAFE,
        "a CheckOut of a device that waits is refused",
    ),
    "rule 1: a CheckOut that was overtaken asks no more whether its device waits": (
        Renewals(RenewalBudget(renewals=1, check_outs=1, impatience=1), again="blind"),
        Verdict.UNSAFE,
        "a CheckOut that was given up",
    ),
    "collapse keys: order by the clock alone": (
        CollapseKeys(order="clock"),
        Verdict.UNSAFE,
        "superseded by an older command",
    ),
    "collapse keys: the order is not above what was handed out": (
        CollapseKeys(is_above_all=False),
        Verdict.UNSAFE,
        "superseded by an older command",
    ),
    "collapse keys: no look after the insertion": (
        CollapseKeys(looks_again=False),
        Verdict.UNSAFE,
        "two places are open",
    ),
    "collapse keys: an end without a condition": (
        CollapseKeys(ends="blind"),
        Verdict.UNSAFE,
        "was handed out and is superseded",
    ),
    "rule 3: what was asked for is handed out": (
        CommandQueue(QueueBudget(cancels=1), trusts_sum=True),
        Verdict.UNSAFE,
        "not open any more",
    ),
    "rule 4: a reader reads the generation first": (
        CommandQueue(QueueBudget(enrollments=1, not_now=1), generation_first=True),
        Verdict.UNSAFE,
        "nobody enrolled",
    ),
    "rule 4: Authenticate ends all other generations": (
        CommandQueue(QueueBudget(impatience=1, enrollments=2), ends_of="other"),
        Verdict.UNSAFE,
        "nobody enrolled",
    ),
    "rule 4: the new stamp revives": (
        CommandQueue(QueueBudget(enrollments=1, cancels=1), stamps="any"),
        Verdict.UNSAFE,
        "overwritten",
    ),
    "rule 1: an Authenticate whose device has gone": (
        CommandQueue(QueueBudget(impatience=1, enrollments=1), looks_for_device=False),
        Verdict.UNSAFE,
        "nobody enrolled",
    ),
    "rule 1: an Authenticate without a condition": (
        CommandQueue(QueueBudget(impatience=1, enrollments=1), enrolls="blindly"),
        Verdict.UNSAFE,
        "nobody enrolled",
    ),
    "rule 5: a report closes what was queued anew": (
        CommandQueue(
            QueueBudget(impatience=1, cancels=1), posts=2, reports_on="generation", retries="never"
        ),
        Verdict.UNSAFE,
        "was not handed out",
    ),
    "rule 5: a cancelled command taken for a retry": (
        CommandQueue(QueueBudget(cancels=1), posts=2, retries="any"),
        Verdict.UNSAFE,
        "queues nothing",
    ),
    "rule 5: what is never answered stays first": (
        Unanswered(moves=False),
        Verdict.UNSAFE,
        "stands in the way",
    ),
    "rule 5: an attempt counts at each Idle": (
        Unanswered(budget=UnansweredBudget(impatience=1), counts="each"),
        Verdict.UNSAFE,
        "did not go unanswered",
    ),
    "rule 5: only Idle shows what went unanswered": (
        Unanswered(("later", "never", "done"), idles=10, only_idle=True),
        Verdict.UNSAFE,
        "stands in the way",
    ),
    "rule 5: what was put off meanwhile counts": (
        Unanswered(budget=UnansweredBudget(impatience=1, not_now=1), condition="nothing"),
        Verdict.UNSAFE,
        "did not go unanswered",
    ),
    "rule 5: NotNow resets nothing": (
        Unanswered(budget=UnansweredBudget(not_now=1), not_now_resets=False),
        Verdict.UNSAFE,
        "is still counted",
    ),
    "rule 5: what moved back keeps its turn": (
        Unanswered(("never", "done", "never"), idles=14, stamps=False),
        Verdict.UNSAFE,
        "takes all turns",
    ),
    "rule 11: order by time": (
        DeliveryQueues((1, 2, 3), DeliveryQueueBudget(bad=1), key="time"),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: freed on an old empty read": (
        DeliveryQueues((1, 2, 3), DeliveryQueueBudget(bad=1), frees_late=False),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: lanes are not loaded first": (
        DeliveryQueues((1, 2, 3), DeliveryQueueBudget(bad=1, kills=1), loads_first=False),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: basic.cancel": (
        DeliveryQueues((1, 2, 3), DeliveryQueueBudget(bad=1, moves=1), gives_up_by="cancel"),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: nobody looks again": (
        DeliveryQueues((1,), DeliveryQueueBudget(bad=1, cuts=1), looks_again=False),
        Verdict.STUCK,
        "",
    ),
    "rule 11: history and live events are counted together": (
        DeliveryQueues((2, 3), DeliveryQueueBudget(), history=(1,), numbers="count"),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: live events are beyond all history": (
        DeliveryQueues((1, 2), DeliveryQueueBudget(), history=(1, 2), numbers="beyond"),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: numbers begin anew": (
        DeliveryQueues((1, 2), DeliveryQueueBudget(bad=2, skips=1), numbers="count"),
        Verdict.UNSAFE,
        "e1 was retried, and e2 came before it",
    ),
    "rule 11: history is not read before a live event": (
        DeliveryQueues((2, 3), DeliveryQueueBudget(), history=(1,), reads_history=False),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: set aside by two writes": (
        DeliveryQueues(
            (1, 2), DeliveryQueueBudget(bad=1, aside=1, kills=1), sets_aside_by="two writes"
        ),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: the lane goes on without being read again": (
        DeliveryQueues((1, 2), DeliveryQueueBudget(bad=1, aside=1, leases=1), reads_again=False),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 11: nobody looks for what was set aside": (
        DeliveryQueues((1, 2), DeliveryQueueBudget(bad=1, aside=1, kills=1), looks_beside=False),
        Verdict.STUCK,
        "",
    ),
    "rule 10: being in memory settles": (
        LocalBroker(settled_by="memory"),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 10: the port opens before the rest": (
        LocalBroker(loads_first=False),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 10: time by the clock alone": (
        LocalBroker(order="clock"),
        Verdict.UNSAFE,
        "out of order",
    ),
    "rule 13: deleted without a condition": (Janitor(deletes="blind"), Verdict.UNSAFE, "is gone"),
    "rule 13: places are looked for first": (Janitor(looks_last=False), Verdict.UNSAFE, "is gone"),
    "rule 13: a job that runs does not count": (
        Janitor(counts_jobs=False),
        Verdict.UNSAFE,
        "is gone",
    ),
    "rule 13: a yes a day after the touch": (Janitor(stalls=True), Verdict.UNSAFE, "is gone"),
    "rule 15: a report without a look at the device": (
        Reviews(condition="noted"),
        Verdict.UNSAFE,
        "has spoken",
    ),
    "rule 15: a report without a look at the note": (
        Reviews(condition="seen"),
        Verdict.UNSAFE,
        "two events",
    ),
    "rule 15: the note before the event": (
        Reviews(speaks=0, is_one_write=False),
        Verdict.STUCK,
        "",
    ),
}

LARGER_BROKEN: dict[str, tuple[Model, Verdict, str]] = {
    "rule 11: the stored number does not count": (
        DeliveryQueues(  # as where all three have one time
            (1, 2, 3), DeliveryQueueBudget(bad=2, cuts=1), key="fresh number", numbers="count"
        ),
        Verdict.UNSAFE,
        "out of order",
    ),
}
