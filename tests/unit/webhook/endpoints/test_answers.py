"""What an answer of a subscriber says beside yes and no."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.webhook.endpoints.sender import LONGEST_WAIT, AttemptOutcome, wait_asked

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("6", 6), (" 120 ", 120), ("0", 0), ("999999999999999999999", 3600), ("3601", 3600)],
)
def test_seconds_are_read_up_to_an_hour(value: str, seconds: int) -> None:
    assert wait_asked(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 0), (86_400, 3600)])
def test_a_date_is_read_up_to_an_hour_ahead(ahead: int, seconds: int) -> None:
    value = format_datetime(NOW + timedelta(seconds=ahead), usegmt=True)

    assert wait_asked(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "1.5", "6 s", "٣", "Wed, 99 Foo 2026", "9" * 5000]
)
def test_what_cannot_be_read_is_an_error(value: str) -> None:
    with pytest.raises(ValueError):
        wait_asked(value, NOW)


@given(st.text())
def test_whatever_it_says_it_is_a_wait_of_an_hour_at_most_or_an_error(value: str) -> None:
    try:
        wait = wait_asked(value, NOW)
    except ValueError:
        return
    assert timedelta() <= wait <= LONGEST_WAIT


@given(st.integers(300, 599))
def test_of_4xx_and_5xx_only_these_are_about_the_event(status: int) -> None:
    about_the_receiver = {401, 403, 404, 408, 410, 425, 429}
    expected = status == 500 or (400 <= status < 500 and status not in about_the_receiver)

    assert AttemptOutcome("answered", status=status).is_about_event == expected
