"""Logs: one JSON object a line for machines, readable lines for people on a terminal.

What libraries log (uvicorn, aio-pika, pymongo) goes the same way, from WARNING on. An event is a
name and fields; payloads, tokens and secrets are never among them.
"""

import logging
import sys
from typing import Literal

import orjson
import structlog

LogFormat = Literal["auto", "json", "console"]

_NOISY = ("aio_pika", "aiormq", "pymongo", "httpx", "httpcore", "asyncio", "hpack")


def configure(log_format: LogFormat = "auto") -> None:
    """Set logging up for this process; called once at start."""
    readable = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(readable),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Our own events say it once and in words (`broker_unreachable`); the library says it at every try.
    logging.getLogger("aiormq.connection").addFilter(
        lambda record: not str(record.msg).startswith("error when creating transport")
    )
    # It warns of every request that is no HTTP, which any stranger can send at any rate.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _renderers(readable: bool) -> list[structlog.typing.Processor]:
    if readable:
        return [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                # Where `rich` is installed, the usual one prints local variables, and so secrets.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_as_json),
    ]


def _as_json(record: dict[str, object], **_: object) -> str:
    return orjson.dumps(record, default=str).decode()
