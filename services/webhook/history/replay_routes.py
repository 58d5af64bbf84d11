"""Replays in the API: events that are in the journal are sent to a subscription again."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from services.webhook.history.routes import NOT_FOUND
from services.webhook.history.schemas import EventIds, ReplayList, ReplayOut, replay_out
from services.webhook.history.service import TOO_MANY, check_room
from services.webhook.history.worker import progress_of
from services.webhook.subscriptions.fields import Text, TopicNames
from services.webhook.subscriptions.requests import Patch
from services.webhook.subscriptions.service import SubscriptionService
from shared.domain.access import Scope
from shared.domain.errors import Conflict, NotFound, unfit
from shared.domain.subscription import Replay, ReplayChoice, Subscription
from shared.ports.clock import Clock, Ids
from shared.ports.deliveries import Replays
from shared.times import nanoseconds, to_milliseconds
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import TIME, UDID, UUID, about, body, errors, ok
from shared.web.api.requests import Expected, Moment, Parsing

_RUNNING = {
    **NOT_FOUND,
    409: ("Too many run, or it is the one of MDM_WEBHOOK_URL.", TOO_MANY),
}
_NO_REPLAY = {404: ("No such subscription or replay.", f"there is no replay {UUID}")}


class ReplayRequest(Patch):
    """Events by their ids, or those of a time that fit the rest, or dead letters."""

    event_ids: EventIds | None = None
    since: Annotated[Moment, about("RFC 3339.", TIME)] = None
    until: Annotated[Moment, about("RFC 3339; now without it.")] = None
    topics: TopicNames | None = None
    device: Annotated[
        Annotated[Text, Field(max_length=256), Expected("a UDID or EnrollmentID")] | None,
        about("A UDID.", UDID),
    ] = None
    failed: Annotated[
        Annotated[bool, Expected("true or false")] | None, about("Dead letters, tried again.")
    ] = None

    def choice(self, now: datetime) -> ReplayChoice:
        """Raises BadRequest, which names the key."""
        by_time = self.until or self.topics or self.device
        ways = {"event_ids": self.event_ids, "since": self.since, "failed": self.failed}
        given = [name for name, value in ways.items() if value]
        if not given:
            raise unfit("since", "a time; or else `event_ids`, or `failed`")
        if len(given) > 1:
            raise unfit(given[1], f"nothing beside `{given[0]}`")
        if by_time and self.since is None:
            raise unfit("since", "a time beside `until`, `topics` and `device`")
        until = min(self.until or now, now)
        if self.since and self.since >= until:
            name = "until" if self.until and self.since < now else "since"
            raise unfit(name, "a time after `since`" if name == "until" else "a time before now")
        return ReplayChoice(
            event_ids=tuple(dict.fromkeys(self.event_ids or ())),
            since=max(nanoseconds(self.since), 0) if self.since else 0,
            until=nanoseconds(until),
            topics=frozenset(self.topics or ()),
            device=self.device,
            has_failed=bool(self.failed),
        )


@dataclass(frozen=True, slots=True)
class ReplayService:
    replays: Replays
    clock: Clock
    ids: Ids

    async def start(self, subscription: Subscription, asked: ReplayRequest, by: str) -> Replay:
        """Raises Conflict."""
        if subscription.is_configured:
            raise Conflict("receivers of MDM_WEBHOOK_URL get each event once, and no replays")
        check_room(await self.replays.of(subscription.id))
        now = self.clock.now()
        choice = asked.choice(now)
        replay = Replay(self.ids.new(), subscription.id, choice, to_milliseconds(now), by)
        await self.replays.add(replay)
        return replay

    async def get(self, subscription: str, id: str) -> Replay:
        found = await self.replays.get(subscription, id)
        if found is None:
            raise NotFound(f"there is no replay {id[:100]}")
        return found


def replay_routes(service: SubscriptionService, replays: ReplayService, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["webhooks"])
    parsing = Parsing()

    @routes.post(
        "/v1/webhooks/{id}/replay",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.replay")],
        status_code=202,
        summary="Send events again",
        responses=ok(ReplayOut, "The replay goes on by itself.", 202)
        | errors(400, 404, 409, 413, said=_RUNNING),
        openapi_extra=body(ReplayRequest),
    )
    async def replay_events(request: Request, id: str) -> JsonAnswer:
        """Of the topics that it asks for, as long as the journal has them. They carry their `event_id`
        and the header `X-MacroMDM-Replay`, and come beside new events, which do not wait for them. Dead
        letters are tried again without it, in their place before newer events of their device."""
        subscription = await service.get(id)
        asked = await parsing.read(request, ReplayRequest)
        replay = await replays.start(subscription, asked, request.state.caller.name)
        describe(request, [id], f"replay {replay.id}")
        return JsonAnswer(replay_out(replay, progress_of(replay)), 202)

    @routes.get(
        "/v1/webhooks/{id}/replays",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="List replays",
        responses=ok(ReplayList, "The oldest first.") | errors(400, 404, said=NOT_FOUND),
    )
    async def list_replays(id: str) -> JsonAnswer:
        """Those that have ended stay for MDM_EVENT_RETENTION."""
        await service.get(id)
        found = await replays.replays.of(id)
        return JsonAnswer({"replays": [replay_out(each, progress_of(each)) for each in found]})

    @routes.get(
        "/v1/webhooks/{id}/replays/{replay}",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="A replay",
        responses=ok(ReplayOut, "As far as it has come.") | errors(400, 404, said=_NO_REPLAY),
    )
    async def get_replay(id: str, replay: str) -> JsonAnswer:
        """`progress` is about the time that it covers."""
        await service.get(id)
        found = await replays.get(id, replay)
        return JsonAnswer(replay_out(found, progress_of(found)))

    return routes
