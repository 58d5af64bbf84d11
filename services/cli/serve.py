"""`python -m services all | checkin | commands | push | webhook`: run services until a signal comes."""

import argparse
import sys
from collections.abc import Mapping

import structlog

from services.runtime.program import SETTINGS, ServicesProgram, check
from shared.settings import AllSettings, load, warnings_about
from shared.telemetry import logs
from shared.telemetry.metrics import Metrics
from shared.web.server.listener import check_tls
from shared.web.server.server import Server, tls_of
from shared.web.version import VERSION

log = structlog.get_logger()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"MacroMDM {VERSION}")
    parser.add_argument(
        "--check-config", action="store_true", help="check the settings and exit: 0 or 2"
    )


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Check the settings, and serve unless only the check was asked for."""
    settings = load(SETTINGS[given.name], environ)
    logs.configure(settings.log_format)
    for warning in warnings_about(settings, environ):
        log.warning("setting", problem=warning)
    if given.check_config:
        check_tls(tls_of(settings))
        check(given.name, settings)
        sys.stdout.write("the settings can be used\n")
        return
    metrics = Metrics().with_process()
    if isinstance(settings, AllSettings):
        from services.runtime import all_in_one

        await all_in_one.run(settings, metrics)
        return
    server = Server(ServicesProgram([given.name], settings, metrics), settings, metrics)
    log.info(
        "listening", service=given.name, address=str(settings.http), ops=str(settings.ops_http)
    )
    await server.run()
