"""/v1/webhooks: the subscriptions to events. Promise: all of it needs the scope `admin`."""

from fastapi import APIRouter, Request

from services.webhook.subscriptions.requests import (
    NewSubscription,
    SecretRotation,
    SubscriptionPatch,
)
from services.webhook.subscriptions.schemas import (
    SubscriptionList,
    SubscriptionOut,
    SubscriptionWithSecret,
    subscription_out,
)
from services.webhook.subscriptions.service import SubscriptionService
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import UUID, Nothing, body, errors, ok
from shared.web.api.requests import Parsing

TAG = {
    "name": "webhooks",
    "description": "Subscriptions to events: where these are posted, and how.",
}
_NOT_FOUND = {404: ("No such subscription.", f"there is no webhook {UUID}")}
_SAID = {
    **_NOT_FOUND,
    409: (
        "It is the one of MDM_WEBHOOK_URL, or others change it at the same time.",
        "MDM_WEBHOOK_URL makes this webhook: change that setting instead",
    ),
}
_FULL = {
    409: ("There are too many.", "there are 200 webhooks, the most that there may be"),
}
_SHOWN = ok(SubscriptionOut, "The subscription as it is now.")


def subscription_routes(service: SubscriptionService, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["webhooks"])
    parsing = Parsing()

    @routes.post(
        "/v1/webhooks",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.create")],
        status_code=201,
        summary="Subscribe to events",
        responses=ok(SubscriptionWithSecret, "Made. `secret` is shown this once.", 201)
        | errors(400, 409, 413, said=_FULL),
        openapi_extra=body(NewSubscription),
    )
    async def create_webhook(request: Request) -> JsonAnswer:
        """Events are posted to `url` within two seconds from then on. Its address must be one of the
        internet, or in MDM_WEBHOOK_ALLOWED_NETWORKS."""
        asked = await parsing.read(request, NewSubscription)
        describe(request, detail=asked.name)
        made, secret = await service.create(asked)
        describe(request, [made.id])
        return JsonAnswer({**subscription_out(made), "secret": secret}, 201)

    @routes.get(
        "/v1/webhooks",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="List subscriptions",
        responses=ok(SubscriptionList, "All, that of MDM_WEBHOOK_URL first.") | errors(400),
    )
    async def list_webhooks() -> JsonAnswer:
        """Without their secrets."""
        return JsonAnswer({"webhooks": list(map(subscription_out, await service.list()))})

    @routes.patch(
        "/v1/webhooks/{id}",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.change")],
        summary="Change a subscription",
        responses=_SHOWN | errors(400, 404, 409, 413, said=_SAID),
        openapi_extra=body(SubscriptionPatch),
    )
    async def change_webhook(request: Request, id: str) -> JsonAnswer:
        """A merge patch: what it does not name stays, also in `filters`, `headers` and `include`. All
        replicas follow within two seconds."""
        asked = await parsing.read(request, SubscriptionPatch)
        describe(request, detail=" ".join(sorted(asked.model_fields_set)))
        return JsonAnswer(subscription_out(await service.change(id, asked)))

    @routes.delete(
        "/v1/webhooks/{id}",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.delete")],
        summary="Delete a subscription",
        responses=ok(Nothing, "Deleted; its events are gone.") | errors(404, 409, said=_SAID),
    )
    async def delete_webhook(id: str) -> JsonAnswer:
        """What waits for it, and its dead letters, are removed with it."""
        await service.delete(id)
        return JsonAnswer({})

    return routes


def state_routes(service: SubscriptionService, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["webhooks"])
    parsing = Parsing()

    @routes.post(
        "/v1/webhooks/{id}/pause",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.pause")],
        summary="Pause a subscription",
        responses=_SHOWN | errors(404, 409, said=_SAID),
    )
    async def pause_webhook(id: str) -> JsonAnswer:
        """Its events wait, for as long as MDM_EVENT_RETENTION keeps them."""
        return JsonAnswer(subscription_out(await service.pause(id)))

    @routes.post(
        "/v1/webhooks/{id}/resume",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.resume")],
        summary="Resume a subscription",
        responses=_SHOWN | errors(404, 409, said=_SAID),
    )
    async def resume_webhook(id: str) -> JsonAnswer:
        """After a pause, or after the server disabled it. What waits goes out in order."""
        return JsonAnswer(subscription_out(await service.resume(id)))

    @routes.post(
        "/v1/webhooks/{id}/secret",
        dependencies=[auth.needs(Scope.ADMIN, audit="webhook.rotate_secret")],
        summary="Replace the secret of a subscription",
        responses=ok(SubscriptionWithSecret, "Replaced. `secret` is shown this once.")
        | errors(400, 404, 409, 413, said=_SAID),
        openapi_extra=body(SecretRotation),
    )
    async def rotate_webhook_secret(request: Request, id: str) -> JsonAnswer:
        """Requests carry a signature of the new one and, for a while, of the former one."""
        asked = await parsing.read(request, SecretRotation)
        changed, secret = await service.rotate(id, asked)
        return JsonAnswer({**subscription_out(changed), "secret": secret})

    return routes
