"""Wires jobs."""

from services.commands.jobs.routes import TAG, job_routes
from services.commands.jobs.worker import JobWorker
from services.commands.queue.service import QueueService
from services.runtime.adapters import Adapters
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def jobs_feature(
    adapters: Adapters, queue_service: QueueService, auth: ApiAuth
) -> tuple[JobWorker, Feature]:
    stores = adapters.stores
    worker = JobWorker(
        stores.jobs,
        stores.queue,
        queue_service,
        adapters.clock,
        adapters.ids,
        adapters.metrics,
        adapters.is_alone,
    )
    feature = Feature(
        routers=(job_routes(stores.jobs, auth),),
        workers=(worker.run,),
        release=worker.stop,
        drain=worker.drain,
        openapi_tags=(TAG,),
    )
    return worker, feature
