"""The state and the deliveries of subscriptions in the API. Promise: all of it needs the scope `admin`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from services.webhook.history.schemas import (
    CountOut,
    DeliveryFilters,
    DeliveryPage,
    RetryOut,
    RetryRequest,
    SkipRequest,
    SubscriptionStatus,
    TestOut,
    delivery_out,
    status_out,
    test_out,
)
from services.webhook.history.service import TOO_MANY, DeliveryHistory
from services.webhook.subscriptions.service import SubscriptionService
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.cursor import write_cursor
from shared.web.api.openapi import UUID, body, errors, ok
from shared.web.api.requests import Parsing

NOT_FOUND = {404: ("No such subscription.", f"there is no webhook {UUID}")}
_RETRIED = {**NOT_FOUND, 409: ("Too many replays of it run.", TOO_MANY)}
_NO_TEST = {
    **NOT_FOUND,
    409: (
        "It is the one of MDM_WEBHOOK_URL.",
        "receivers of MDM_WEBHOOK_URL get MicroMDM's events, and no test events",
    ),
}


def delivery_routes(
    service: SubscriptionService, history: DeliveryHistory, auth: ApiAuth
) -> APIRouter:
    routes = auth.router(tags=["webhooks"])

    @routes.get(
        "/v1/webhooks/{id}",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="A subscription, and how it does",
        responses=ok(SubscriptionStatus, "The subscription, and what waits for it.")
        | errors(400, 404, said=NOT_FOUND),
    )
    async def get_webhook(id: str) -> JsonAnswer:
        """Without its secrets. Counts of attempts are a few seconds behind."""
        subscription = await service.get(id)
        status = await history.status(id)
        return JsonAnswer(status_out(subscription, status, history.clock.now()))

    @routes.get(
        "/v1/webhooks/{id}/deliveries",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="Events that wait, and dead letters",
        responses=ok(DeliveryPage, "A page, about by time; `next_cursor` is null on the last one.")
        | errors(400, 404, said=NOT_FOUND),
    )
    async def list_deliveries(id: str, filters: Annotated[DeliveryFilters, Query()]) -> JsonAnswer:
        """What was delivered is counted only. A page may have fewer than `limit` though others
        follow."""
        await service.get(id)
        page, after = await history.page(id, filters.wanted(), filters.after(), filters.limit)
        attempts = await history.attempts(id)
        return JsonAnswer(
            {
                "deliveries": [delivery_out(each, attempts.get(each.event_id)) for each in page],
                "next_cursor": None if after is None else write_cursor(after),
            }
        )

    return routes


def action_routes(
    service: SubscriptionService, history: DeliveryHistory, auth: ApiAuth
) -> APIRouter:
    routes = auth.router(tags=["webhooks"])
    parsing = Parsing()

    @routes.post(
        "/v1/webhooks/{id}/deliveries/retry",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.retry")],
        summary="Try events again",
        responses=ok(RetryOut, "So many will be tried again.")
        | errors(400, 404, 409, 413, said=_RETRIED),
        openapi_extra=body(RetryRequest),
    )
    async def retry_deliveries(request: Request, id: str) -> JsonAnswer:
        """Dead letters with a fresh schedule, waiting ones at once. Without `event_ids`, behind the first
        10,000 events a replay goes on."""
        await service.get(id)
        asked = await parsing.read(request, RetryRequest)
        describe(request, [id, *(asked.event_ids or ())])
        if asked.event_ids is not None:
            count = await history.retry(id, asked.event_ids)
            return JsonAnswer({"count": count, "replay": None})
        count, rest = await history.retry_all(id, request.state.caller.name)
        return JsonAnswer({"count": count, "replay": rest and rest.id})

    @routes.post(
        "/v1/webhooks/{id}/deliveries/skip",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.skip")],
        summary="Let devices go on without events",
        responses=ok(CountOut, "So many are dead letters now.")
        | errors(400, 404, 413, said=NOT_FOUND),
        openapi_extra=body(SkipRequest),
    )
    async def skip_deliveries(request: Request, id: str) -> JsonAnswer:
        """They become dead letters, which can be tried again."""
        await service.get(id)
        asked = await parsing.read(request, SkipRequest)
        describe(request, [id, *asked.event_ids])
        return JsonAnswer({"count": await history.skip(id, asked.event_ids)})

    @routes.post(
        "/v1/webhooks/{id}/test",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.test")],
        summary="Send a test event",
        responses=ok(TestOut, "What became of it.") | errors(404, 409, said=_NO_TEST),
    )
    async def test_webhook(id: str) -> JsonAnswer:
        """One event of the topic `macromdm.Test`, at once and once, also while it is paused."""
        event_id, outcome = await history.test(await service.get(id))
        return JsonAnswer(test_out(event_id, outcome))

    return routes
