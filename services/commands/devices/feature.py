"""Wires devices."""

from services.commands.devices.routes import TAG, device_routes
from services.commands.devices.service import DeviceInventory, DeviceRemoval
from services.commands.queue.targets import Targets
from services.runtime.adapters import Adapters
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def devices_feature(adapters: Adapters, targets: Targets, auth: ApiAuth) -> Feature:
    stores = adapters.stores
    removal = DeviceRemoval(
        stores.enrollments, stores.queue, adapters.wanted, adapters.ids, adapters.clock
    )
    inventory = DeviceInventory(stores.enrollments, stores.devices, targets, removal)
    return Feature(routers=(device_routes(inventory, auth),), openapi_tags=(TAG,))
