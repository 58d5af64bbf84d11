"""The query string of a device's URL, as subscribers get it: an object of strings, or null."""

import plistlib

import pytest

from tests.integration.whole import Whole
from tests.support.harness.http1 import Connection, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERIES: dict[str, tuple[str, dict[str, str] | None]] = {
    "none": ("", None),
    "a question mark alone": ("?", None),
    "separators alone": ("?&&", None),
    "one": ("?group=a", {"group": "a"}),
    "repeated": ("?a=1&b=2&a=3", {"a": "1", "b": "2"}),
    "empty values": ("?a=&b", {"a": "", "b": ""}),
    "empty name": ("?=x", {"": "x"}),
    "escaped": ("?a%20b=c+d%26", {"a b": "c d&"}),
    "not ASCII": ("?gr%C3%BC%C3%9Fe=%E2%82%AC", {"grüße": "€"}),
    "names of the store's own": ("?%24where=1&a.b=2", {"$where": "1", "a.b": "2"}),
    "a NUL": ("?a%00b=c%00d", {"a\0b": "c\0d"}),
    "bytes that are no UTF-8": ("?a=%FF", {"a": "\ufffd"}),
    "a lone surrogate": ("?a=%ED%A0%80", {"a": "\ufffd\ufffd\ufffd"}),
    "a hundred": (
        "?" + "&".join(f"n{i}={i}" for i in range(100)),
        {f"n{i}": str(i) for i in range(100)},
    ),
    "a long one": ("?a=" + "x" * 10_000, {"a": "x" * 10_000}),
}


@pytest.mark.parametrize(("query", "params"), QUERIES.values(), ids=QUERIES.keys())
async def test_the_query_string_of_either_url_is_in_the_event(
    whole: Whole, query: str, params: dict[str, str] | None
) -> None:
    device = whole.device()

    assert (await device.checkin("Authenticate", query=query)).status_code == 200
    assert (await device.connect(query=query)).status_code == 200

    checkin, connect = await whole.events_of(device.id, 2)
    assert checkin["checkin_event"]["url_params"] == params
    assert connect["acknowledge_event"]["url_params"] == params


async def test_a_query_with_bytes_that_need_escapes_is_400(whole: Whole) -> None:
    device = whole.device()
    body = plistlib.dumps({"MessageType": "Authenticate", **device.ids})
    signature = f"mdm-signature: {device.identity.sign(body)}\r\n"
    path = "/mdm/checkin?größe=€".encode().decode("latin-1")
    journaled = whole.journaled()

    async with Connection("127.0.0.1", whole.process.port) as connection:
        answer = await connection.send(request_bytes("PUT", path, signature, body))

    assert (answer.status, answer.body) == (400, b"")
    assert whole.journaled() == journaled


async def test_ten_thousand_parameters_are_refused(whole: Whole) -> None:
    device = await whole.enrolled()

    answer = await device.connect(query="?" + "&".join(f"{i:x}" for i in range(10_000)))

    assert (answer.status_code, answer.content) == (400, b"")
