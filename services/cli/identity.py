"""`python -m services identity`: a device identity from our CA, as files.

Promise: the key is readable by its owner only, from its first byte on; files of that name are
replaced.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from services.cli.opening import command_settings, opened_stores
from shared.concurrency.clock import SystemClock
from shared.domain.errors import Misconfigured
from shared.ports.certificates import AuthorityStore
from shared.ports.clock import Clock
from shared.security.authority import open_authority


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", required=True, dest="identity", help="common name, and the name of the files"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for key and certificate")


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    async with opened_stores(command_settings(environ)) as stores:
        paths = await write_identity(given.identity, given.out, stores.authority, SystemClock())
    sys.stdout.writelines(f"{path}\n" for path in paths)


async def write_identity(
    name: str, out_dir: Path, store: AuthorityStore, clock: Clock
) -> list[Path]:
    """Write NAME-key.pem, NAME-cert.pem and ca.pem to `out_dir`; the paths, in that order."""
    if not name or name.startswith(".") or set(name) & {"/", "\\", "\0"}:
        raise Misconfigured("name: expected one that can be a file's")
    authority = await open_authority(store, clock)
    issued = authority.issue(name, clock)
    contents = {
        out_dir / f"{name}-key.pem": issued.key_pem,
        out_dir / f"{name}-cert.pem": issued.certificate.public_bytes(Encoding.PEM),
        out_dir / "ca.pem": authority.certificate_pem,
    }
    await asyncio.to_thread(_write, out_dir, contents)
    return list(contents)


def _write(out_dir: Path, contents: dict[Path, bytes]) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        mode = 0o600 if path.name.endswith("-key.pem") else 0o644
        # A new file moved into place: one that was there with a wider mode never holds the key.
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        fresh.replace(path)
