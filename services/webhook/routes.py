"""HTTP edge of the webhook service: nothing yet; subscriptions and replay get their routes here."""

from fastapi import APIRouter


def build_router() -> APIRouter:
    return APIRouter()
