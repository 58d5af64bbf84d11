"""`python -m services NAME`: reads settings, and runs one service, or all, or a small command.

Exit codes: 0 ended when told to, 2 a setting or an argument cannot be used (one line says which),
1 something else failed.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import uvloop
from prometheus_client import disable_created_metrics

from services.cli.tokens import Asked
from services.runtime.program import SETTINGS, ServicesProgram, check
from shared.domain.errors import MdmError, Misconfigured
from shared.settings import AllSettings, ServiceSettings, load, warnings_about
from shared.telemetry import logs
from shared.telemetry.metrics import Metrics
from shared.web.server.listener import check_tls
from shared.web.server.server import Server, tls_of
from shared.web.version import VERSION

log = structlog.get_logger()

COMMAND_DEADLINE = timedelta(minutes=1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m services", description="MacroMDM")
    top.add_argument("--version", action="version", version=f"MacroMDM {VERSION}")
    names = top.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in SETTINGS:
        what = "the four services in one process" if name == "all" else f"the service {name}"
        service = names.add_parser(name, help=f"run {what}")
        service.add_argument("--version", action="version", version=f"MacroMDM {VERSION}")
        service.add_argument(
            "--check-config", action="store_true", help="check the settings and exit: 0 or 2"
        )
    identity = names.add_parser("identity", help="make a device identity, for simulators and tests")
    identity.add_argument(
        "--name", required=True, dest="identity", help="common name, and the name of the files"
    )
    identity.add_argument("--out", required=True, type=Path, help="folder for key and certificate")
    deliveries = names.add_parser("deliveries", help="events that wait, or were given up on")
    deliveries.add_argument("action", choices=["list", "retry", "skip"])
    deliveries.add_argument(
        "ids", nargs="*", help="these deliveries; retry without any: all that were given up on"
    )
    deliveries.add_argument(
        "--blocked",
        action="store_true",
        help="list what devices wait for, not what was given up on",
    )
    token = names.add_parser("token", help="tokens of the API: make, list, revoke")
    token.add_argument("action", choices=["create", "list", "revoke"])
    token.add_argument("names", nargs="*", metavar="token", help="name; to revoke also the id")
    token.add_argument(
        "--scope", action="append", default=[], help="read, commands, push, admin; may be repeated"
    )
    token.add_argument("--days", type=int, help="until the new token expires; default: never")
    names.add_parser(
        "rotate-secrets", help="encrypt the store's secrets with the first key of MDM_SECRET_KEY"
    )
    _add_store_actions(names.add_parser("store", help="the store as a whole: backup, check, copy"))
    return top


def _add_store_actions(store: argparse.ArgumentParser) -> None:
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")
    backup = actions.add_parser("backup", help="write one snapshot of the data folder's store")
    backup.add_argument(
        "file", type=Path, metavar="FILE", help="new, for its owner only; never over another"
    )
    actions.add_parser("check", help="look whether the data folder's store is whole: 0 or 1")
    copy = actions.add_parser("copy", help="all that one store has into another one")
    location = "FOLDER|MONGODB_URL"
    copy.add_argument("--from", required=True, dest="source", metavar=location)
    copy.add_argument("--to", required=True, dest="target", metavar=location)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(arguments)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
    try:
        if given.name in SETTINGS:
            return _serve(given.name, environ, only_check=given.check_config)
        return _small_command(given, environ)
    except (MdmError, ExceptionGroup) as exc:
        error = _first(exc, Misconfigured) or _first(exc, MdmError)
        if error is None:
            raise
        sys.stderr.write(f"macromdm: {error}\n")
        return 2 if isinstance(error, Misconfigured) else 1


def _serve(name: str, environ: Mapping[str, str], *, only_check: bool) -> int:
    settings = load(SETTINGS[name], environ)
    logs.configure(settings.log_format)
    for warning in warnings_about(settings, environ):
        log.warning("setting", problem=warning)
    if only_check:
        check_tls(tls_of(settings))
        check(name, settings)
        sys.stdout.write("the settings can be used\n")
        return 0
    _run(_server(name, settings))
    return 0


def _server(name: str, settings: ServiceSettings) -> Coroutine[Any, Any, None]:
    metrics = Metrics().with_process()
    if isinstance(settings, AllSettings):
        from services.runtime import all_in_one

        return all_in_one.run(settings, metrics)
    return _one(name, settings, metrics)


async def _one(name: str, settings: ServiceSettings, metrics: Metrics) -> None:
    server = Server(ServicesProgram([name], settings, metrics), settings, metrics)
    log.info("listening", service=name, address=str(settings.http), ops=str(settings.ops_http))
    await server.run()


def _small_command(given: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from services.cli import small_commands

    settings = load(AllSettings, environ)
    logs.configure(settings.log_format)
    if given.name == "store":
        _run(_store_command(given, settings))  # takes as long as the store is large
        return 0
    if given.name == "identity":
        work = small_commands.identity(settings, given.identity, given.out)
    elif given.name == "rotate-secrets":
        _run(small_commands.rotate_secrets(settings))  # takes as long as the store is large
        return 0
    elif given.name == "token":
        asked = Asked(given.action, given.names, given.scope, given.days)
        work = small_commands.token(settings, asked)
    else:
        action = f"{given.action} blocked" if given.blocked else given.action
        work = small_commands.deliveries(settings, action, given.ids)
    _run(asyncio.wait_for(work, COMMAND_DEADLINE.total_seconds()))
    return 0


def _store_command(given: argparse.Namespace, settings: AllSettings) -> Coroutine[Any, Any, None]:
    from services.cli import store as store_command
    from services.cli import store_copy

    if given.action == "copy":
        return store_copy.copy_store(given.source, given.target, sys.stdout)
    if given.action == "backup":
        return store_command.backup(settings, given.file.absolute(), sys.stdout)
    return store_command.check(settings, sys.stdout)


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def _first(error: BaseException, kind: type[MdmError]) -> BaseException | None:
    """The first error of a kind in what task groups nest."""
    if isinstance(error, BaseExceptionGroup):
        found = (_first(each, kind) for each in error.exceptions)
        return next((each for each in found if each is not None), None)
    return error if isinstance(error, kind) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
