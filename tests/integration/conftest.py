"""The whole server of a test module; its tests run on the loop of the module."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.whole import Whole, whole_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole_server(tmp_path_factory.mktemp("whole")) as found:
        yield found
