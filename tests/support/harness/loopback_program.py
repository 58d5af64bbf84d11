"""`python -m services`, whose subscriptions may have receivers on this machine beside MongoDB too."""

import os
import sys

from services.__main__ import main
from services.runtime.program import SETTINGS
from shared.network.address_guard import AddressGuard
from shared.settings import WebhookSettings
from tests.support.harness.system import ServiceProcess


class LoopbackSettings(WebhookSettings):
    @property
    def address_guard(self) -> AddressGuard:
        return AddressGuard(self.webhook_allowed_networks, is_loopback_allowed=True)


class LoopbackProcess(ServiceProcess):
    module = "tests.support.harness.loopback_program"


if __name__ == "__main__":
    SETTINGS["webhook"] = LoopbackSettings
    sys.exit(main(sys.argv[1:], os.environ))
