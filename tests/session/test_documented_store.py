"""The store that the documentation writes keeps the contract of all stores."""

import re
from pathlib import Path
from typing import Any

import pytest

from sstream.testing import Clock
from tests.session.contract import StoreContract

PAGE = Path(__file__).parents[2] / "docs" / "write-a-store.md"
(BLOCK,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
NAMES: dict[str, Any] = {"__name__": "documentation"}
exec(compile(BLOCK, str(PAGE), "exec"), NAMES)


@pytest.fixture
def clock():
    return Clock()


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def pass_time(self, clock):
        async def pass_time(seconds: float) -> None:
            clock.turn(seconds)

        return pass_time

    @pytest.fixture
    async def new_store(self, clock, tmp_path):
        stores = []

        async def new_store():
            stores.append(NAMES["SQLiteStore"](tmp_path / "sessions.db", clock=clock))
            await stores[-1].start()
            return stores[-1]

        yield new_store
        for store in stores:
            await store.close()
