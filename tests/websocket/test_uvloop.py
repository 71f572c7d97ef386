"""Everything about connections once more, on uvloop."""

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.websocket.test_connection import *  # noqa: F403 (its tests, under the fixture below)
from tests.websocket.test_hostile import *  # noqa: F403
from tests.websocket.test_release import *  # noqa: F403


@pytest.fixture
def event_loop_factory(need: Callable[..., Any]) -> Callable[[], asyncio.AbstractEventLoop]:
    return need(lambda: importlib.import_module("uvloop")).new_event_loop
