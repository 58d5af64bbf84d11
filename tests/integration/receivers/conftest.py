"""Each test here runs on asyncio's loop and on uvloop, which the services use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from services.webhook.endpoints.sender import HttpSender
from shared.concurrency.clock import SystemClock
from shared.network.address_guard import AddressGuard
from tests.support.harness.bad_servers import Trust

TIMEOUT = timedelta(seconds=2)
"""A good receiver answers within it on a busy machine too."""
EVERY_LOOPBACK = AddressGuard(is_loopback_allowed=True)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    async with HttpSender(SystemClock(), None, TIMEOUT, EVERY_LOOPBACK) as sender:
        yield sender


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)
