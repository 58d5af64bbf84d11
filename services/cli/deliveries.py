"""`python -m services deliveries`: what waits for webhooks, dead letters and replays, by the API of a server
that runs.

Promises: it needs no access to the store, and does what the API does: a retry, a skip or a replay is in the
audit log. Its ids are `webhook:event`, as it lists them.
"""

import argparse
import ssl
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TextIO
from urllib.parse import quote

import httpx

from services.cli.opening import command_settings
from services.runtime.key_files import API_KEY_FILE
from services.webhook.history.schemas import DEAD, MOST_EVENTS, WAITING
from shared.chunks import chunked
from shared.domain.errors import BadRequest, Misconfigured, Unavailable
from shared.settings import AllSettings
from shared.settings.load import name_in_use
from shared.web.api.requests import MOST_OF_PAGE

ROUTE = "/v1/webhooks"
_TIMEOUT = timedelta(seconds=30)

Answer = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "retry", "skip", "replay", "replays"])
    parser.add_argument(
        "ids",
        nargs="*",
        help="retry, skip: deliveries as `list` shows them (retry without any: all dead letters); replay: "
        "a webhook, then events; replays: a webhook",
    )
    parser.add_argument(
        "--blocked", action="store_true", help="list what devices wait for, not the dead letters"
    )
    parser.add_argument(
        "--since", help="replay the events since this time, as 2026-01-31T00:00:00Z"
    )
    parser.add_argument("--until", help="and before this one")
    parser.add_argument("--topic", action="append", help="of this topic; may be repeated")
    parser.add_argument("--device", help="of this device")
    parser.add_argument("--failed", action="store_true", help="replay the dead letters")
    parser.add_argument(
        "--server",
        help="the URL of the API; default: the address of MDM_HTTP, with MDM_TLS_CERT that of devices",
    )


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    settings = command_settings(environ)
    url = given.server or (
        settings.public_url if settings.tls_cert else f"http://{settings.http.reachable}"
    )
    key, key_from = _api_key(settings, environ)
    async with httpx.AsyncClient(
        base_url=_checked(url),
        auth=("micromdm", key),
        verify=ssl.create_default_context(),
        timeout=_TIMEOUT.total_seconds(),
        trust_env=False,
    ) as http:
        await DeliveriesCommand(http, sys.stdout, key_from).run(given)


def _checked(url: str) -> httpx.URL:
    try:
        checked = httpx.URL(url)
        if checked.scheme in ("http", "https") and checked.host:
            return checked
    except httpx.InvalidURL:
        pass
    raise Misconfigured(f"deliveries: --server: {url} is no URL as https://mdm.example.com")


def _api_key(settings: AllSettings, environ: Mapping[str, str]) -> tuple[str, str]:
    """The key, and the setting or file that has it."""
    if settings.api_keys:
        name = name_in_use("api_key", AllSettings, environ)
        return settings.api_keys[0].get_secret_value(), name
    kept = settings.data_dir / API_KEY_FILE
    try:
        return kept.read_text().strip(), str(kept)
    except OSError:
        raise Misconfigured(f"MDM_API_KEY: is not set, and there is no {kept}") from None


@dataclass(frozen=True, slots=True)
class DeliveriesCommand:
    """`key_from`: the setting or file that has the API key."""

    http: httpx.AsyncClient
    out: TextIO
    key_from: str = "MDM_API_KEY"

    async def run(self, given: argparse.Namespace) -> None:
        """Raises Misconfigured for arguments that make no sense and for a wrong key, BadRequest for what the
        server refuses, Unavailable where it does not answer."""
        _check(given)
        action, ids = given.action, given.ids
        if action == "list":
            if given.blocked:
                await self._write(self._blocked(), "nothing waits")
            else:
                await self._write(self._dead_letters(), "no dead letters")
        elif action in _CHANGES:
            await self._change(action, ids)
        elif action == "replay":
            await self._replay(given)
        else:
            await self._write(self._replays(ids), "no replays")

    async def _dead_letters(self) -> AsyncIterator[str]:
        for webhook in await self._webhooks():
            async for each in self._deliveries(webhook, DEAD):
                yield _line(webhook, each)

    async def _blocked(self) -> AsyncIterator[str]:
        for webhook in await self._webhooks():
            heads: dict[tuple[str, ...], Answer] = {}
            behind: dict[tuple[str, ...], int] = defaultdict(int)
            async for each in self._deliveries(webhook, WAITING):
                aside = each["event_id"] if each["is_set_aside"] else each["replay"] or ""
                queue = each["device"], aside
                behind[queue] += queue in heads
                # Its head is the one that was tried most: ids need not have the order of the queue.
                if queue not in heads or each["attempts"] > heads[queue]["attempts"]:
                    heads[queue] = each
            for waits, head in heads.items():
                yield _blocked_line(webhook, head, behind[waits])

    async def _replays(self, webhooks: Iterable[str]) -> AsyncIterator[str]:
        for webhook in webhooks:
            for each in (await self._ask("replays", "GET", _path(webhook, "replays")))["replays"]:
                yield _replay_line(each)

    async def _change(self, action: str, ids: Iterable[str]) -> None:
        """Retry or skip these; without ids, the dead letters of all."""
        wanted = defaultdict[str, list[str]](list)
        for id in ids:
            webhook, colon, event = id.rpartition(":")
            if not colon:
                raise Misconfigured(f"deliveries {action}: {id} is no id that `list` shows")
            wanted[webhook].append(event)
        requests: list[tuple[str, Answer]] = [
            (webhook, {"event_ids": chunk})
            for webhook, events in wanted.items()
            for chunk in chunked(events, MOST_EVENTS)
        ]
        count = 0
        for webhook, body in requests or [(each, {}) for each in await self._webhooks()]:
            path = _path(webhook, f"deliveries/{action}")
            answer = await self._ask("count", "POST", path, json=body)
            count += answer["count"]
            if replay := answer.get("replay"):
                self.out.write(f"the rest of {webhook} goes on as its replay {replay}\n")
        what = "delivery" if count == 1 else "deliveries"
        self.out.write(f"{count} {what} will be {_CHANGES[action]}\n")

    async def _replay(self, given: argparse.Namespace) -> None:
        webhook, *events = given.ids
        body = {
            "event_ids": events or None,
            "since": given.since,
            "until": given.until,
            "topics": given.topic,
            "device": given.device,
            "failed": given.failed or None,
        }
        body = {name: value for name, value in body.items() if value is not None}
        started = await self._ask("progress", "POST", _path(webhook, "replay"), json=body)
        self.out.write(f"{_replay_line(started)}\n")

    async def _webhooks(self) -> list[str]:
        return [each["id"] for each in (await self._ask("webhooks", "GET"))["webhooks"]]

    async def _deliveries(self, webhook: str, state: str) -> AsyncIterator[Answer]:
        params: dict[str, str | int] | None = {"state": state, "limit": MOST_OF_PAGE}
        while params:
            path = _path(webhook, "deliveries")
            page = await self._ask("deliveries", "GET", path, params=params)
            for each in page["deliveries"]:
                yield each
            cursor = page["next_cursor"]
            params = params | {"cursor": cursor} if cursor else None

    async def _ask(self, field: str, method: str, path: str = "", **content: Any) -> Any:
        """The JSON of an answer, which has this field."""
        where = self.http.base_url
        try:
            answer = await self.http.request(method, ROUTE + path, **content)
        except httpx.TimeoutException as exc:
            seconds = _TIMEOUT.total_seconds()
            raise Unavailable(f"no answer from {where} within {seconds:.0f} s") from exc
        except httpx.HTTPError as exc:
            is_trusted = "CERTIFICATE_VERIFY_FAILED" not in str(exc)
            hint = "does it run?" if is_trusted else "set SSL_CERT_FILE to a CA of your own."
            raise Unavailable(f"no answer from {where} ({exc}): {hint} See --server") from exc
        try:
            said = answer.json()
            error = "" if answer.is_success and field in said else said["error"]
            # Of a 401, MicroMDM's word: the detail says why.
            if answer.status_code == HTTPStatus.UNAUTHORIZED:
                raise Misconfigured(f"{self.key_from}: {said['detail']} ({where})")
        except (ValueError, KeyError, TypeError):
            error = f"{where} answered {answer.status_code}, and not as MacroMDM does: see --server"
        if error:
            raise (Unavailable if answer.is_server_error else BadRequest)(error)
        return said

    async def _write(self, lines: AsyncIterator[str], nothing: str) -> None:
        is_empty = True
        async for line in lines:
            is_empty = False
            self.out.write(f"{line}\n")
        if is_empty:
            self.out.write(f"{nothing}\n")


def _check(given: argparse.Namespace) -> None:
    action = given.action
    for option, owner in _OPTIONS.items():
        if action != owner and getattr(given, option):
            raise Misconfigured(f"deliveries {action}: takes no --{option}")
    if given.ids and action == "list":
        raise Misconfigured("deliveries list: takes no ids")
    if action in _NEEDED and not given.ids:
        raise Misconfigured(f"deliveries {action}: name {_NEEDED[action]}")


def _path(webhook: str, rest: str) -> str:
    """The id of a webhook stays one part of the path, even with slashes or dots."""
    return f"/{quote(webhook, safe='').replace('.', '%2E')}/{rest}"


_CHANGES = {"retry": "tried again", "skip": "kept for a retry, not tried"}
_OPTIONS = {
    "blocked": "list",
    **dict.fromkeys(("since", "until", "topic", "device", "failed"), "replay"),
}
"""Each with the only action that heeds it: another would do more than was asked for."""
_NEEDED = {
    "skip": "the deliveries, as `list --blocked` shows them",
    "replay": "the webhook",
    "replays": "the webhook",
}


def _line(webhook: str, delivery: Answer) -> str:
    return (
        f"{webhook}:{delivery['event_id']}  device={delivery['device']}"
        f"  topic={delivery['topic'] or 'unknown'}"
        f"  attempts={delivery['attempts']}  last_error={delivery['last_error']}"
    )


def _blocked_line(webhook: str, head: Answer, behind: int) -> str:
    state = "set_aside" if head["is_set_aside"] else f"behind={behind}"
    replay = f"  replay={head['replay']}" if head["replay"] else ""
    due = head["next_attempt_at"] or "now"
    return f"{_line(webhook, head)}  next_attempt={due}  {state}{replay}"


def _replay_line(replay: Answer) -> str:
    return (
        f"{replay['id']}  state={replay['state']}  stored={replay['stored']}"
        f"  progress={replay['progress']:.0%}  created_at={replay['created_at']}"
    )
