"""Times come out of BSON as they went in, in UTC, as bson's own option `tz_aware` gives them."""

from datetime import UTC, datetime, timedelta, timezone

import bson
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from shared.storage.codec import OPTIONS

ZONES = st.sampled_from([UTC, timezone(timedelta(hours=-5, minutes=-30)), None])


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES))
def test_a_time_is_the_same_as_by_bson_s_own_option(moment: datetime) -> None:
    blob = bson.encode({"at": moment, "in": {"list": [moment, None]}, "text": "x"})

    found = bson.decode(blob, OPTIONS)

    assert found == bson.decode(blob, CodecOptions(tz_aware=True, tzinfo=UTC))
    assert found["at"].tzinfo is UTC
    assert found["in"]["list"][0].tzinfo is UTC
