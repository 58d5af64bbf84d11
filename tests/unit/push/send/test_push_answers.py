"""Answers of APNs: each is exactly one outcome."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.push.send.outcomes import (
    LONGEST_WAIT,
    Accepted,
    BackOff,
    Rejected,
    Retry,
    TokenDead,
    TopicRefused,
    classify,
)

CLOSED_SET = Accepted | BackOff | Rejected | Retry | TokenDead | TopicRefused
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)


@given(st.integers(100, 599), st.dictionaries(st.text(), st.text()), st.binary(max_size=200))
def test_any_bytes_give_an_outcome(status: int, headers: dict[str, str], body: bytes) -> None:
    assert isinstance(classify(status, headers, body), CLOSED_SET)


@given(st.sampled_from([400, 403, 410, 429, 500]), anything, anything)
def test_any_json_gives_an_outcome(status: int, word: object, timestamp: object) -> None:
    import json

    body = json.dumps({"reason": word, "timestamp": timestamp}).encode()

    assert isinstance(classify(status, {}, body), CLOSED_SET)


def test_an_answer_nested_too_deep_gives_an_outcome() -> None:
    assert classify(400, {}, b"[" * 100_000) == Rejected("400")


def test_a_reason_that_is_no_plain_word_is_not_repeated() -> None:
    assert classify(400, {}, b'{"reason": "<script>"}') == Rejected("400")


@pytest.mark.parametrize(
    ("header", "wait"),
    [("30", timedelta(seconds=30)), ("999999", LONGEST_WAIT), ("soon", None), ("-1", None)],
)
def test_retry_after_is_read_and_bounded(header: str, wait: timedelta | None) -> None:
    assert classify(429, {"retry-after": header}, b"") == BackOff("429", wait)
