"""Jobs: commands for many devices, and how far they are."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.commands.jobs.schemas import JobDetails, JobPage, Page, job_page, job_with_refusals
from shared.domain.access import Scope
from shared.domain.errors import NotFound
from shared.ports.queue import Jobs
from shared.web.answers import JsonAnswer
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import UUID, errors, ok

TAG = {
    "name": "jobs",
    "description": "Commands for many devices: how far they are, and whom they were not queued for.",
}


def job_routes(jobs: Jobs, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["jobs"])

    @routes.get(
        "/v1/jobs",
        dependencies=[auth.needs(Scope.READ)],
        summary="List jobs",
        responses=ok(JobPage, "Jobs, newest first.") | errors(400),
    )
    async def list_jobs(page: Annotated[Page, Query()]) -> JsonAnswer:
        """Commands that were queued with `udids`."""
        return JsonAnswer(await job_page(jobs, page))

    @routes.get(
        "/v1/jobs/{id}",
        dependencies=[auth.needs(Scope.READ)],
        summary="One job",
        responses=ok(JobDetails, "How far it is; `refused` is one page.")
        | errors(400, 404, said={404: ("No such job.", f"job: there is no job {UUID}")}),
    )
    async def get_job(id: str, page: Annotated[Page, Query()]) -> JsonAnswer:
        """Its progress, and the targets it was refused for. The counts may lag by a second."""
        job = await jobs.get(id)
        if job is None:
            raise NotFound(f"job: there is no job {id}")
        return JsonAnswer(await job_with_refusals(jobs, job, page))

    return routes
