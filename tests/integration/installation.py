"""A data folder, and the commands of `python -m services` that work on it, as processes."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


@dataclass
class Installation:
    """A data folder, and the port of whoever runs on it: any free one at first, then the same."""

    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    port: int = 0

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MDM_DATA_DIR": str(self.folder),
            "MDM_HTTP": f"127.0.0.1:{self.port}",
            "MDM_OPS_HTTP": "127.0.0.1:0",
            **self.more,
        }

    async def run(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=self.environ,
            start_new_session=True,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
        """The process, once it said that it serves, and what it said."""
        process = await self.run("all")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                said = (await process.stdout.readuntil(b"/metrics\n")).decode()
            listens = re.search(r"https?://127.0.0.1:(\d+)", said)
            assert listens is not None
            self.port = int(listens[1])
            yield process, said
        except asyncio.IncompleteReadError:
            pytest.fail(f"it ended at once: {(await process.communicate())[1].decode()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()

    async def does(self, *arguments: str) -> tuple[int, str, str]:
        """Run a small command to its end: exit code, what it printed, and what it complained of."""
        process = await self.run(*arguments)
        async with asyncio.timeout(PATIENCE):
            said, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode(), errors.decode()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE):
        _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()
