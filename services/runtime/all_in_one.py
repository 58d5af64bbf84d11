"""`python -m services all`: the four services in one process, on one port, with one OpenAPI document.

What no setting gives is made here: the API key on the first start, the store in the data folder, the
in-process broker. The port opens when everything can serve, and only then is said where.
"""

import secrets
import sys

from pydantic import SecretStr

from services.runtime.key_files import API_KEY_FILE, kept_key
from services.runtime.program import ALL_SERVICES, ServicesProgram
from shared.settings import Address, AllSettings
from shared.settings.values import without_credentials
from shared.telemetry.metrics import Metrics
from shared.web.server.server import Server


async def run(settings: AllSettings, metrics: Metrics) -> None:
    """Serve until a signal comes."""
    is_kept = settings.api_key is None
    settings = with_api_key(settings)

    async def greet() -> None:
        # The key itself goes to a person, never into a log file; port 0 has become another.
        addresses = {
            "http": Address(settings.http.host, server.main.port),
            "ops_http": Address(settings.ops_http.host, server.ops.port),
        }
        lines = greeting(
            settings.model_copy(update=addresses),
            webhooks=await program.count_webhooks(),
            key_is_kept=is_kept,
            shows_key=sys.stdout.isatty(),
        )
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    program = ServicesProgram(ALL_SERVICES, settings, metrics)
    server = Server(program, settings, metrics, opens_when_ready=True, on_open=greet)
    await server.run()


def with_api_key(settings: AllSettings) -> AllSettings:
    """The settings with an API key: the one given, else the one in the data folder, else a new one."""
    if settings.api_key is not None:
        return settings
    key = kept_key(settings.data_dir, API_KEY_FILE, secrets.token_hex(32), "MDM_API_KEY")
    return settings.model_copy(update={"api_key": SecretStr(key)})


def greeting(
    settings: AllSettings, *, webhooks: int | None, key_is_kept: bool, shows_key: bool
) -> list[str]:
    """The banner of `services all`, once the port is open. `webhooks`: how many were made by API; None: not
    known."""
    scheme = "https" if settings.tls_cert else "http"
    where = f"in {settings.data_dir / API_KEY_FILE}" if key_is_kept else "as in MDM_API_KEY"
    lines = [
        f"MacroMDM listens on  {scheme}://{settings.http.reachable} (API described at /docs)",
        f"Devices reach it at  {settings.public_url}",
        f"API user and key     micromdm, {where}",
        f"Events go to         {_receivers(settings, webhooks)}",
        f"Data folder          {settings.data_dir.resolve()}",
        f"Health and metrics   http://{settings.ops_http.reachable}/readyz and /metrics",
    ]
    if key_is_kept and shows_key:
        lines.insert(3, f"                     {settings.api_keys[0].get_secret_value()}")
    return lines


def _receivers(settings: AllSettings, webhooks: int | None) -> str:
    found = []
    if settings.webhook_url is not None:
        found.append(without_credentials(settings.webhook_url.get_secret_value()))
    if webhooks != 0:
        count = f"{webhooks or 'the'} webhook{'' if webhooks == 1 else 's'}"
        found.append(f"{count} made by POST /v1/webhooks")
    nowhere = "nowhere yet: make a webhook by POST /v1/webhooks, or set MDM_WEBHOOK_URL"
    return ", and to ".join(found) or nowhere
