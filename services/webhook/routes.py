"""The request that receivers of events get, for the OpenAPI document. The service itself serves none."""

from typing import Any

from fastapi import APIRouter

from services.webhook.schemas import WebhookEvent

webhooks = APIRouter()


@webhooks.post(
    "event",
    operation_id="receive_event",
    summary="An event, sent to MDM_WEBHOOK_URL",
    tags=["webhook"],
    responses={200: {"description": "Any 2xx takes the event; else it is sent again."}},
)
async def receive_event(event: WebhookEvent) -> Any:
    """MicroMDM's topics come to every receiver, `macromdm.` ones to those that ask for them."""
