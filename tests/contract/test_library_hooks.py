"""What we use of uvicorn and aiormq beside their interfaces: each test names the hook that is gone."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from aiormq.abc import AbstractConnection
from aiormq.channel import Channel
from aiormq.connection import Connection
from pamqp import commands
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

PROTOCOL_METHODS = {
    "connection_made": ("transport",),
    "connection_lost": ("exc",),
    "data_received": ("data",),
    "on_message_begin": (),
    "on_url": ("url",),
    "on_header": ("name", "value"),
    "on_headers_complete": (),
    "on_body": ("body",),
    "on_message_complete": (),
    "on_response_complete": (),
    "pause_writing": (),
    "resume_writing": (),
    "timeout_keep_alive_handler": (),
    "send_400_response": ("msg",),
    "_start_asgi_task": ("cycle", "app"),
}
PROTOCOL_ATTRIBUTES = (
    "client",
    "cycle",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "timeout_keep_alive_task",
    "transport",
)
CYCLE_ATTRIBUTES = (
    "body",
    "default_headers",
    "disconnected",
    "flow",
    "keep_alive",
    "message_event",
    "more_body",
    "on_response",
    "response_complete",
    "response_started",
    "scope",
    "transport",
    "waiting_for_100_continue",
)
SERVER_METHODS = {"startup": ("sockets",), "shutdown": ("sockets",), "on_tick": ("counter",)}
CHANNEL_ATTRIBUTES = ("closing", "is_closed", "number", "on_consumer_cancel_callbacks")


async def app(_scope: Any, _receive: Any, _send: Any) -> None:
    return None


def parameters(owner: type, name: str) -> tuple[str, ...]:
    found = getattr(owner, name, None)
    assert callable(found), f"the library has no {owner.__name__}.{name}"
    return tuple(inspect.signature(found).parameters)[1:]


def protocol() -> HttpToolsProtocol:
    config = uvicorn.Config(app, log_config=None, interface="asgi3", ws="none", lifespan="off")
    return HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())


def connection() -> Connection:
    """One that is not made, with what a handshake would have brought."""
    made = Connection("amqp://localhost")
    made.server_properties = {"capabilities": {"publisher_confirms": True}}
    made.connection_tune = commands.Connection.Tune(frame_max=131_072)
    return made


def lacks(library: str, thing: object, names: tuple[str, ...]) -> list[str]:
    return [
        f"{library} has no {type(thing).__name__}.{name}"
        for name in names
        if not hasattr(thing, name)
    ]


@pytest.mark.parametrize("name", PROTOCOL_METHODS)
def test_uvicorns_protocol_has_the_methods_that_ours_extends(name: str) -> None:
    assert parameters(HttpToolsProtocol, name) == PROTOCOL_METHODS[name]


async def test_uvicorns_protocol_has_the_attributes_that_ours_reads() -> None:
    assert lacks("uvicorn", protocol(), PROTOCOL_ATTRIBUTES) == []


async def test_uvicorns_protocol_is_given_to_its_parser_and_keeps_its_requests_in_order() -> None:
    made = protocol()
    made.on_message_begin()

    assert made.headers == []
    assert made.cycle is None and made.timeout_keep_alive_task is None
    assert callable(made.pipeline.popleft)
    assert callable(made.parser.should_upgrade) and callable(made.parser.get_http_version)


def test_uvicorns_cycle_has_the_attributes_that_ours_reads_and_sets() -> None:
    source = inspect.getsource(RequestResponseCycle.__init__)
    gone = [name for name in CYCLE_ATTRIBUTES if f"self.{name} = " not in source]

    assert [f"uvicorn has no RequestResponseCycle.{name}" for name in gone] == []


async def test_uvicorns_flow_control_says_whether_it_reads() -> None:
    assert (
        lacks("uvicorn", FlowControl(asyncio.Transport()), ("read_paused", "resume_reading")) == []
    )


@pytest.mark.parametrize("name", SERVER_METHODS)
def test_uvicorns_server_is_started_and_ended_by_the_methods_that_our_listener_calls(
    name: str,
) -> None:
    assert parameters(uvicorn.Server, name) == SERVER_METHODS[name]


async def test_aiormqs_channel_has_the_attributes_that_ours_uses() -> None:
    channel = Channel(connection(), 1)
    try:
        assert lacks("aiormq", channel, CHANNEL_ATTRIBUTES) == []
    finally:
        await channel.close()


async def test_aiormqs_connection_knows_its_channels_and_the_size_of_a_frame() -> None:
    made = connection()

    assert made.channels == {}
    assert made.connection_tune.frame_max == 131_072
    assert lacks("aiormq", made, ("closing", "connected")) == []


@pytest.mark.parametrize(
    ("method", "used"),
    [
        (AbstractConnection.channel, {"channel_number", "publisher_confirms", "kwargs"}),
        (Channel.__init__, {"publisher_confirms"}),
        (Channel.basic_consume, {"queue", "consumer_callback"}),
        (Channel.basic_nack, {"delivery_tag", "wait"}),
        (Channel.close, {"exc"}),
        (Connection.__init__, {"url", "transport_factory"}),
    ],
)
def test_aiormqs_methods_take_the_arguments_that_ours_gives(
    method: Callable[..., Any], used: set[str]
) -> None:
    assert used - set(inspect.signature(method).parameters) == set(), method.__qualname__
