"""JSON answers, in the Content-Type that MicroMDM's clients look for."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

CONTENT_TYPE = "application/json; charset=utf-8"

RETRY_AFTER = "5"
"""Seconds after which a client of a 503 may come again."""


class JsonAnswer(JSONResponse):
    """`application/json; charset=utf-8`, made by orjson."""

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(content, status_code, headers, CONTENT_TYPE, background)

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)
