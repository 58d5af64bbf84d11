"""Requests of devices, from their bytes to the batch.

Order for bytes from outside: size limit, signature, certificate, and only then the plist.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.exchange import DeviceExchange
from services.checkin.messages import HANDLERS
from services.checkin.pipeline.device_auth import SMALL_BODY, DeviceAuthentication, Proof
from shared.apple.messages.checkin import CheckinMessage
from shared.apple.messages.connect import Connect
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import BadRequest
from shared.domain.identity import DeviceCertificate
from shared.telemetry.metrics import Reason

MAX_URL_PARAMS = 100
_PASSES = 5
"""How often the loop runs from the end of a connection in the kernel to `connection_lost`, at most: asyncio
three times, five with TLS; uvloop twice, three times with TLS (measured)."""

Scope = MutableMapping[str, Any]
"""A request but for its body, in the form of ASGI."""
IsConnected = Callable[[], Awaitable[bool]]
ReadAnswer = Callable[[DeviceExchange], Awaitable[None]]
"""Reads a large answer for its event, if there is to be one, before its request goes into a batch."""
Parse = Callable[[bytes], CheckinMessage | Connect]
_SIGNER = "signer"
"""The key, in the state of a request, of the Signer that `begin` found: `serve` need not verify it again."""


class DeviceRequests:
    """`work` reads large bodies."""

    def __init__(
        self,
        batches: BatchExecutor[DeviceExchange, Answer],
        devices: DeviceAuthentication,
        read_answer: ReadAnswer,
        work: HeavyWork,
        max_body: int,
    ) -> None:
        self._batches = batches
        self._devices = devices
        self._read_answer = read_answer
        self._work = work
        self.max_body = max_body

    async def serve(
        self, parse: Parse, scope: Scope, body: bytes, is_connected: IsConnected
    ) -> Answer:
        """The answer to a request. Raises MdmError."""
        signer = scope.get("state", {}).pop(_SIGNER, None)
        proof = await self._devices.prove(headers_of(scope), peer_of(scope), body, signer)
        _note_proven(scope, proof[0])
        if len(body) <= SMALL_BODY:
            message = _parsed(parse, body)
            return await self._enqueued(_exchange(scope, message, body, proof, is_connected))
        message = await self._work.do(_parsed, parse, body)
        exchange = _exchange(scope, message, body, proof, is_connected)
        await self._read_answer(exchange)
        return await self._enqueued(exchange)

    def begin(
        self, parse: Parse, scope: Scope, body: bytes, is_gone: Callable[[], bool]
    ) -> "asyncio.Future[Answer] | None":
        """The same at once, for a small body; `is_gone` says whether the device hung up. None for a request
        that needs `serve`, or is too large for it."""
        if len(body) > self.max_body:
            return None
        signer = self._devices.signer_at_once(headers_of(scope), peer_of(scope), body)
        if signer is None:
            return None
        proof = self._devices.prove_at_once(signer)
        if proof is None:
            scope.setdefault("state", {})[_SIGNER] = signer
            return None
        _note_proven(scope, proof[0])

        async def is_connected() -> bool:
            await see_who_hung_up()
            return not is_gone()

        message = _parsed(parse, body)
        return self._enqueued(_exchange(scope, message, body, proof, is_connected))

    def _enqueued(self, exchange: DeviceExchange) -> "asyncio.Future[Answer]":
        return self._batches.enqueue(exchange, key=exchange.message.key.device)


def _exchange(
    scope: Scope,
    message: CheckinMessage | Connect,
    body: bytes,
    proof: Proof,
    is_connected: IsConnected,
) -> DeviceExchange:
    return DeviceExchange(
        message=message,
        handler=HANDLERS[type(message)],
        certificate=proof[0],
        body=body,
        url_params=_url_params(scope["query_string"]),
        is_connected=is_connected,
        signed_at=proof[1],
    )


async def see_who_hung_up() -> None:
    """Let the loop read the ends of connections that the kernel has already."""
    for _ in range(_PASSES):
        await asyncio.sleep(0)


def _parsed(parse: Parse, body: bytes) -> CheckinMessage | Connect:
    try:
        return parse(body)
    except BadRequest as exc:
        raise DeviceRefused(Reason.PLIST, str(exc)) from exc


def _url_params(query: bytes) -> dict[str, str] | None:
    """The first value of each name in the query string; None where there is none."""
    if not query:
        return None
    params: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        params.setdefault(name, value)
    if len(params) > MAX_URL_PARAMS:
        raise DeviceRefused(Reason.MESSAGE, f"more than {MAX_URL_PARAMS} URL parameters")
    return params or None


def _note_proven(scope: Scope, certificate: DeviceCertificate) -> None:
    """Who sent it, for the record of a refusal."""
    scope.setdefault("state", {})["proven"] = certificate


def headers_of(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return headers


def peer_of(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None
