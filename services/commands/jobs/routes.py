"""What API clients call to follow a command for many devices."""

import re

from fastapi import APIRouter, Request

from services.commands.jobs import openapi as job_openapi
from services.commands.jobs.schemas import MOST, USUAL, JobView, Page
from shared.domain.access import Scope
from shared.domain.errors import unfit
from shared.web.answers import JsonAnswer
from shared.web.api.auth import ApiAuth

_LONGEST_CURSOR = 64


def job_routes(jobs: JobView, auth: ApiAuth) -> APIRouter:
    """The routes of jobs."""
    routes = auth.router(tags=["jobs"])

    @routes.get(
        "/v1/jobs",
        dependencies=[auth.needs(Scope.READ)],
        summary="List jobs",
        responses=job_openapi.LIST_JOBS,
        openapi_extra=job_openapi.PAGE,
    )
    async def list_jobs(request: Request) -> JsonAnswer:
        """Commands that were queued with `udids`."""
        return JsonAnswer(await jobs.newest(read_page(request)))

    @routes.get(
        "/v1/jobs/{id}",
        dependencies=[auth.needs(Scope.READ)],
        summary="One job",
        responses=job_openapi.GET_JOB,
        openapi_extra=job_openapi.PAGE,
    )
    async def get_job(request: Request, id: str) -> JsonAnswer:
        """Its progress, and the targets it was refused for. The counts may lag by a second."""
        return JsonAnswer(await jobs.one(id, read_page(request)))

    return routes


def read_page(request: Request) -> Page:
    """`?limit=` and `?cursor=`. Raises BadRequest."""
    limit, cursor = USUAL, request.query_params.get("cursor") or None
    text = request.query_params.get("limit")
    if text is not None:
        if not re.fullmatch("[0-9]{1,4}", text) or not 0 < int(text) <= MOST:
            expected = f"a whole number from 1 to {MOST}"
            raise unfit("limit", expected)
        limit = int(text)
    if cursor is not None and (len(cursor) > _LONGEST_CURSOR or not cursor.isprintable()):
        expected = "the `next_cursor` of an answer before"
        raise unfit("cursor", expected)
    return Page(limit, cursor)
