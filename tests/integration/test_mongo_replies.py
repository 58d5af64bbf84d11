"""What the adapter of MongoDB makes of replies that the stand-in of our tests never gives."""

from typing import Any

import pytest

from shared.domain.errors import StoreUnavailable
from shared.storage.mongo import Driver, Mongo
from tests.support.harness.mongo_replies import answering_inserts_with

TAKEN = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}
NOT_ON_A_MAJORITY = {"code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting timed out"}


async def insert(driver: Driver, reply: dict[str, Any]) -> bool:
    async with answering_inserts_with({"ok": 1, **reply}) as url:
        mongo = Mongo(url, driver=driver)
        try:
            return await mongo.collection("things").insert_one({"_id": 1})
        finally:
            await mongo.close()


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_key_is_taken_only_where_a_majority_has_it(driver: Driver) -> None:
    assert await insert(driver, {"n": 1}) is True
    assert await insert(driver, {"n": 0, "writeErrors": [TAKEN]}) is False
    with pytest.raises(StoreUnavailable):
        await insert(
            driver, {"n": 0, "writeErrors": [TAKEN], "writeConcernError": NOT_ON_A_MAJORITY}
        )
