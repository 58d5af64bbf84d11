"""Wires the tokens of the API, the audit log, and SCEP challenges."""

from services.commands.access import routes
from services.commands.access.tokens import ApiTokens
from services.runtime.adapters import Adapters
from shared.security.challenges import ScepChallenges
from shared.settings import CommandsSettings
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def challenges_feature(settings: CommandsSettings, adapters: Adapters, auth: ApiAuth) -> Feature:
    validity = settings.scep_challenge_validity
    challenges = ScepChallenges(adapters.stores.challenges, adapters.clock, validity=validity)
    router = routes.challenge_routes(challenges, auth)
    return Feature(routers=(router,), openapi_tags=(routes.CHALLENGES_TAG,))


def access_feature(adapters: Adapters, auth: ApiAuth) -> Feature:
    stores, clock = adapters.stores, adapters.clock
    routers = (
        routes.token_routes(ApiTokens(stores.tokens, clock, adapters.ids), auth),
        routes.audit_routes(stores.audit, clock, auth),
    )
    return Feature(routers=routers, openapi_tags=(routes.TAG,))
