"""One handler for each message of a device; `HANDLERS` lists them."""

from collections.abc import Mapping
from typing import Any

from services.checkin.messages.authenticate import AuthenticateHandler
from services.checkin.messages.bootstrap_token import (
    GetBootstrapTokenHandler,
    SetBootstrapTokenHandler,
)
from services.checkin.messages.check_out import CheckOutHandler
from services.checkin.messages.connect import ConnectHandler
from services.checkin.messages.handler import Handler
from services.checkin.messages.refused import UnsupportedHandler, UserAuthenticateHandler
from services.checkin.messages.token_update import TokenUpdateHandler
from shared.apple.messages.checkin import (
    Authenticate,
    CheckOut,
    GetBootstrapToken,
    SetBootstrapToken,
    TokenUpdate,
    Unsupported,
    UserAuthenticate,
)
from shared.apple.messages.connect import Connect

HANDLERS: Mapping[type, Handler[Any]] = {
    Authenticate: AuthenticateHandler(),
    TokenUpdate: TokenUpdateHandler(),
    CheckOut: CheckOutHandler(),
    SetBootstrapToken: SetBootstrapTokenHandler(),
    GetBootstrapToken: GetBootstrapTokenHandler(),
    UserAuthenticate: UserAuthenticateHandler(),
    Unsupported: UnsupportedHandler(),
    Connect: ConnectHandler(),
}
