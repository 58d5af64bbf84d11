"""Wires the review of the devices."""

from services.checkin.review.worker import DeviceReview
from services.runtime.adapters import Adapters
from shared.concurrency.partitions import Share
from shared.settings import CheckinSettings
from shared.web.server.service import Feature


def review_feature(settings: CheckinSettings, adapters: Adapters, share: Share) -> Feature:
    stores = adapters.stores
    review = DeviceReview(
        stores.identities,
        stores.queue,
        adapters.publisher,
        adapters.wanted,
        share,
        adapters.clock,
        adapters.ids,
        settings.silent_after,
    )
    return Feature(workers=(review.run,))
