"""The bytes of request bodies that one process holds, and who is refused when they are too many."""

from hypothesis import given
from hypothesis import strategies as st

from shared.web.server.bodies import BodiesShort, BodyBudget, HeldBody


def is_taken(body: HeldBody, size: int) -> bool:
    try:
        body.add(size)
    except BodiesShort:
        return False
    return True


def test_nobody_is_refused_while_there_is_room():
    budget = BodyBudget(100)

    assert is_taken(budget.open("a"), 90)
    assert is_taken(budget.open("b"), 10)
    assert budget.held == 100


def test_the_address_with_the_largest_share_is_refused_when_it_is_short():
    budget = BodyBudget(100)
    assert is_taken(budget.open("a"), 60)
    assert is_taken(budget.open("b"), 40)

    assert not is_taken(budget.open("a"), 1)
    assert budget.held == 100


def test_another_one_gets_room_from_the_newest_body_of_the_largest_share():
    budget = BodyBudget(100)
    first, second = budget.open("a"), budget.open("a")
    assert is_taken(second, 30)
    assert is_taken(first, 70)

    assert is_taken(budget.open("b"), 20)
    assert (first.is_refused, second.is_refused) == (False, True)
    assert budget.held == 90


def test_a_body_that_is_whole_is_not_taken_back():
    budget = BodyBudget(100)
    whole = budget.open("a")
    assert is_taken(whole, 100)
    whole.finish()

    assert not is_taken(budget.open("b"), 20)
    assert not whole.is_refused


def test_a_refused_body_is_refused_whatever_else_comes_of_it():
    budget = BodyBudget(100)
    body = budget.open("a")
    assert not is_taken(body, 101)

    assert not is_taken(body, 1)
    assert budget.held == 0


def test_an_answered_request_gives_its_room_back():
    budget = BodyBudget(100)
    for _ in range(3):
        body = budget.open("a")
        assert is_taken(body, 80)
        body.finish()
        body.close()

    assert budget.held == 0


steps = st.lists(
    st.tuples(st.sampled_from(["add", "finish", "close"]), st.integers(0, 5), st.integers(0, 60))
)


@given(steps=steps)
def test_the_budget_holds_and_ends_empty_whatever_comes(steps: list[tuple[str, int, int]]):
    budget = BodyBudget(100)
    bodies: dict[int, HeldBody] = {}
    for what, which, size in steps:
        body = bodies.get(which) or bodies.setdefault(which, budget.open("abc"[which % 3]))
        if what == "add" and not body.is_whole:
            is_taken(body, size)
        elif what == "finish":
            body.finish()
        elif what == "close":
            bodies.pop(which).close()
        held = sum(each.size for each in bodies.values())
        assert budget.held == held <= 100
    for body in bodies.values():
        body.close()
    assert budget.held == 0
