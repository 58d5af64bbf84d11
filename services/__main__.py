"""`python -m services NAME`: run one service, or all, or a command that does one thing and ends.

Exit codes: 0 ended as asked, 2 a setting or an argument cannot be used (one line says which),
1 something else failed, or its output was not read to the end.
"""

import argparse
import asyncio
import os
import select
import sys
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

import uvloop
from prometheus_client import disable_created_metrics

from services.runtime.program import SETTINGS
from shared.domain.errors import MdmError, Misconfigured, Unavailable
from shared.web.version import VERSION

SOON = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class CommandModule:
    """A module of services.cli with `add_arguments` and `run`, and how long it may take."""

    module: str
    help: str
    deadline: timedelta | None = None
    """None for what takes as long as the store is large, or as a service runs, or for what has its own."""


_WHAT = {"all": "the four services in one process"}

COMMANDS = {
    **{
        name: CommandModule("serve", f"run {_WHAT.get(name, f'the service {name}')}")
        for name in SETTINGS
    },
    "identity": CommandModule("identity", "make a device identity, for simulators and tests", SOON),
    "deliveries": CommandModule("deliveries", "events that wait, or were given up on"),
    "token": CommandModule("tokens", "tokens of the API: make, list, revoke", SOON),
    "rotate-secrets": CommandModule(
        "rotate_secrets", "encrypt the store's secrets with the first key of MDM_SECRET_KEY"
    ),
    "store": CommandModule("store", "the store as a whole: backup, check, copy, prepare"),
}


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The command line. It knows the arguments of the commands named only: a service loads no code of
    others."""
    top = argparse.ArgumentParser(prog="python -m services", description="MacroMDM")
    top.add_argument("--version", action="version", version=f"MacroMDM {VERSION}")
    names = top.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, command in COMMANDS.items():
        added = names.add_parser(name, help=command.help)
        if name in arguments:
            module = import_module(f"services.cli.{command.module}")
            module.add_arguments(added)
            added.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command line; returns the exit code."""
    given = parser(arguments).parse_args(arguments)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
    work = _within(COMMANDS[given.name].deadline, given.run(given, environ))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        if _is_read():
            raise
        return 1
    except (MdmError, ExceptionGroup) as exc:
        error = _first(exc, Misconfigured) or _first(exc, MdmError)
        if error is None:
            raise
        sys.stderr.write(f"macromdm: {error}\n")
        return 2 if isinstance(error, Misconfigured) else 1


def _is_read() -> bool:
    """False once the reader of our output is gone, as in `list | head -1`: nothing more is printed."""
    output = select.poll()
    output.register(sys.stdout, 0)
    if not output.poll(0):
        return True
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    return False


async def _within(deadline: timedelta | None, work: Awaitable[None]) -> None:
    seconds = None if deadline is None else deadline.total_seconds()
    try:
        async with asyncio.timeout(seconds) as limit:
            await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise Unavailable(f"given up after {seconds:.0f} s: does the store answer?") from None


def _first(error: BaseException, kind: type[MdmError]) -> BaseException | None:
    """The first error of a kind in what task groups nest."""
    if isinstance(error, BaseExceptionGroup):
        found = (_first(each, kind) for each in error.exceptions)
        return next((each for each in found if each is not None), None)
    return error if isinstance(error, kind) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
