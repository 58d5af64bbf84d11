"""Models of the rules (docs/rules.md): they hold in every order of all steps, and each is needed.

A case that breaks a rule must be caught: a model that finds nothing there would find nothing anywhere.
`MDM_TEST_MODELS=1` explores the larger cases too.
"""

import os

import pytest

from tests.models.cases import BROKEN, HOLDS, LARGER, LARGER_BROKEN
from tests.models.explorer import Model, Verdict, explore

IS_LONG = os.environ.get("MDM_TEST_MODELS", "0") != "0"


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


@pytest.mark.skipif(not IS_LONG, reason="MDM_TEST_MODELS is not set")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("model", "verdict", "fault"), LARGER_BROKEN.values(), ids=LARGER_BROKEN)
def test_a_rule_that_is_broken_is_caught_in_larger_systems(
    model: Model, verdict: Verdict, fault: str
) -> None:
    found = explore(model)

    assert found.verdict is verdict, found
    assert fault in found.fault
