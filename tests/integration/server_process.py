"""The tiny program as a process, and raw HTTP to it; for the tests of the server."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("tiny_program.py")
AUTH = b"authorization: Basic " + base64.b64encode(b"micromdm:a-key-that-is-long-enough") + b"\r\n"
PATIENCE = 15.0
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


@dataclass
class Running:
    process: "subprocess.Popen[bytes]"
    http: int
    ops: int

    async def ends(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE)


@contextmanager
def running(when: str, *faults: str, log: Path = Path(os.devnull)) -> Iterator[Running]:
    """The tiny program, once its ports are known; killed at the end if it still runs. `log`: where its
    log goes."""
    command = [sys.executable, str(PROGRAM), when, *faults]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=ENVIRONMENT
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ports = json.loads(process.stdout.readline())
            yield Running(process, ports["http"], ports["ops"])
        finally:
            process.kill()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return int(head.split()[1]), await reader.readexactly(length)


async def said(port: int, request: bytes) -> bytes:
    """Everything that comes until the server closes the connection."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        return await reader.read()


async def get(port: int, path: str) -> tuple[int, bytes]:
    async with connected(port) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return await answer(reader)


def status(raw: bytes) -> int:
    return int(raw.split()[1])


async def until(port: int, path: str, wanted: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await _code(port, path) != wanted:
            await asyncio.sleep(0.02)


async def _code(port: int, path: str) -> int | None:
    try:
        return (await get(port, path))[0]
    except ConnectionRefusedError:
        return None
