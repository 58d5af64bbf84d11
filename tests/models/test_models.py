"""Models of the rules (docs/rules.md): they hold in every order of all steps, and each is needed.

A case that breaks a rule must be caught: a model that finds nothing there would find nothing anywhere.
`MDM_TEST_MODELS=1` explores the larger cases too.
"""

import os

import pytest

from tests.models.collapse_keys import CollapseKeys
from tests.models.explorer import Model, Verdict, explore
from tests.models.janitor import Janitor
from tests.models.journal import Journal
from tests.models.journal_states import Budget
from tests.models.local_broker import LocalBroker
from tests.models.token_updates import TokenUpdates

IS_LONG = os.environ.get("MDM_TEST_MODELS", "0") != "0"
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
    "tokens, a device gives up": TokenUpdates(),
    "collapse keys, clocks differ": CollapseKeys(repeats=0),
    "in-process broker": LocalBroker(),
    "janitor": Janitor(),
}

LARGER: dict[str, Model] = {
    "three messages, two confirms lost": Journal((3,), Budget(bad=2)),
    "a clock jumps, two relays": Journal((3,), Budget(bad=2), clocks_jump=True),
    "a device gives up, a confirm is lost": Journal((2,), Budget(bad=1, impatience=1), **ONE_RELAY),
    "a publish comes late": Journal((2,), Budget(late=1, impatience=1), **ONE_RELAY),
    "two confirms lost, a replica killed": Journal((2,), Budget(bad=2, kills=1)),
    "a partition is away, two relays": Journal((1, 2), Budget(bad=1), away=frozenset({0})),
    "a partition is away, a replica killed": Journal((1, 2), Budget(kills=1), **AWAY),
    "tokens, three and an enrollment": TokenUpdates(tokens=3, impatience=3, enrollments=1),
    "collapse keys, a repeated post": CollapseKeys(),
    "collapse keys, three commands": CollapseKeys(commands=3, repeats=0),
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
    "rule 8: DELETE takes the mark away": (
        Journal((2,), Budget(bad=1, deletions=1), **ONE_RELAY),
        Verdict.UNSAFE,
        "nobody will publish it",
    ),
    "rule 8: a writer's time follows the mark of a device": (
        Journal((2, 1), Budget(bad=1), time_follows_mark=True, **ONE_RELAY),
        Verdict.UNSAFE,
        "the clock of another replica",
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
    "collapse keys: order by the clock alone": (
        CollapseKeys(order="clock"),
        Verdict.UNSAFE,
        "superseded by an older command",
    ),
    "collapse keys: what was handed out counts as a rival": (
        CollapseKeys(counts_itself=True),
        Verdict.UNSAFE,
        "superseded by an older command",
    ),
    "collapse keys: an end without a condition": (
        CollapseKeys(ends="blind"),
        Verdict.UNSAFE,
        "was handed out and is superseded",
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
    "rule 13: a yes a day after the touch": (Janitor(stalls=True), Verdict.UNSAFE, "is gone"),
}


@pytest.mark.parametrize("model", HOLDS.values(), ids=HOLDS)
def test_the_rules_hold_in_every_order_of_all_steps(model: Model) -> None:
    found = explore(model)

    assert found.verdict is Verdict.HOLDS, found


@pytest.mark.skipif(not IS_LONG, reason="MDM_TEST_MODELS is not set")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", LARGER.values(), ids=LARGER)
def test_the_rules_hold_in_larger_systems(model: Model) -> None:
    found = explore(model)

    assert found.verdict is Verdict.HOLDS, found


@pytest.mark.parametrize(("model", "verdict", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_rule_that_is_broken_is_caught(model: Model, verdict: Verdict, fault: str) -> None:
    found = explore(model)

    assert found.verdict is verdict, found
    assert fault in found.fault
    assert found.trace
