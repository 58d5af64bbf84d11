"""JSON answers, in the Content-Type that MicroMDM's clients look for."""

from typing import Any

import orjson
from fastapi import Response

RETRY_AFTER = "5"
"""Seconds after which a client of a 503 may come again."""


class JsonAnswer(Response):
    """`application/json; charset=utf-8`, made by orjson."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)
