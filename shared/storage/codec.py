"""Documents from BSON, in both stores: their times are in UTC."""

from datetime import datetime
from typing import Any

from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry

from shared.times import EPOCH

_WITHOUT_ZONE = EPOCH.replace(tzinfo=None)


class _TimeDecoder(TypeDecoder):
    """Times in UTC. bson's own option `tz_aware` calls Python functions of its own for each time, and costs
    seven times as much."""

    bson_type = datetime

    def transform_bson(self, value: datetime) -> datetime:
        return EPOCH + (value - _WITHOUT_ZONE)


OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(type_registry=TypeRegistry([_TimeDecoder()]))
