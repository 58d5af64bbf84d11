"""Property lists as JSON: the same values, of bounded size."""

import plistlib
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.apple.plist import read as plist
from shared.apple.plist.to_json import TooLargeToShow, as_json
from shared.times import rfc3339


def shown(value: dict[str, Any], fmt: plistlib.PlistFormat = plistlib.FMT_XML) -> Any:
    return orjson.loads(orjson.dumps(as_json(plist.parse(plistlib.dumps(value, fmt=fmt)))))


def test_every_kind_of_value_is_shown_as_what_it_is() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5)
    value = {
        "t": "ü",
        "i": -7,
        "r": 0.5,
        "b": True,
        "d": b"\x00\xff",
        "at": moment,
        "a": [{"n": 0}],
    }

    assert shown(value) == {
        "t": "ü",
        "i": -7,
        "r": 0.5,
        "b": True,
        "d": "AP8=",
        "at": "2026-01-02T03:04:05Z",
        "a": [{"n": 0}],
    }


def test_whole_numbers_stay_whole_however_large() -> None:
    text = orjson.dumps(as_json({"most": 2**64 - 1, "beyond": 2**100, "least": -(2**63)})).decode()

    assert text == f'{{"most":{2**64 - 1},"beyond":{2**100},"least":{-(2**63)}}}'


def test_what_json_cannot_say_becomes_something_that_it_can() -> None:
    value = {"nan": float("nan"), "inf": float("-inf"), "uid": plistlib.UID(7), "lone": "a\ud800"}

    assert orjson.loads(orjson.dumps(as_json(value))) == {
        "nan": None,
        "inf": None,
        "uid": {"CF$UID": 7},
        "lone": "a?",
    }


def test_a_long_text_that_is_meant_a_thousand_times_is_not_written_out() -> None:
    shared = "x" * 60_000
    bomb = plistlib.dumps({"list": [shared] * 1000}, fmt=plistlib.FMT_BINARY)
    assert len(bomb) < 70_000

    with pytest.raises(TooLargeToShow):
        as_json(plist.parse(bomb))


def test_keys_and_data_count_towards_the_limit() -> None:
    for value in ({"x" * 101: 1}, {"d": b"x" * 100}, {"n": 10**120}):
        with pytest.raises(TooLargeToShow):
            as_json(value, limit=100)


def test_times_are_in_utc() -> None:
    moment = datetime.fromisoformat("2026-01-02T05:04:05.000006+02:00")

    assert rfc3339(moment) == rfc3339(moment.astimezone(UTC)) == "2026-01-02T03:04:05.000006Z"


VALUES: Any = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20)
    | st.integers(-(2**63), 2**64 - 1)
    | st.booleans()
    | st.binary(max_size=20)
    | st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(
        lambda d: d.replace(microsecond=0)
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("k"), inner),
    max_leaves=15,
)


@given(VALUES)
def test_both_forms_of_a_property_list_are_shown_alike(value: Any) -> None:
    document = {"value": value}

    assert shown(document) == shown(document, plistlib.FMT_BINARY)
