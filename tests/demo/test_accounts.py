"""Who may log in: in memory and in Redis."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import redis

from demo.accounts import KEY, Accounts, Name

from .conftest import CHEAP


@pytest.fixture(params=["memory", "redis"])
async def accounts(request, redis_url) -> AsyncIterator[Accounts]:
    accounts = Accounts(redis_url if request.param == "redis" else None)
    accounts.hasher = CHEAP
    yield accounts
    await accounts.close()


async def test_a_new_name_opens_an_account_that_its_password_alone_enters(accounts):
    first = await accounts.may_enter("ada", "oolong")

    assert first is True
    assert await accounts.may_enter("ada", "oolong") is True
    assert await accounts.may_enter("ada", "sencha") is False
    assert await accounts.may_enter("grace", "sencha") is True


@pytest.mark.parametrize("name", ["ada\n", "Ada", "a", "1ada", "ada lovelace", "a" * 17])
def test_a_name_that_looks_like_another_is_none(name):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, Name)


async def test_of_two_who_take_a_name_at_once_one_gets_it(accounts):
    entered = await asyncio.gather(*(accounts.may_enter("ada", password) for password in ("one", "two")))

    assert sorted(entered) == [False, True]


async def test_the_loop_goes_on_while_a_password_is_hashed():
    accounts = Accounts(None)

    entering = asyncio.ensure_future(accounts.may_enter("ada", "oolong"))

    turns = 0
    while not entering.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 10


async def test_what_is_stored_is_no_password(redis_url):
    accounts = Accounts(redis_url)

    await accounts.may_enter("ada", "oolong")

    await accounts.close()
    with redis.Redis.from_url(redis_url) as client:
        stored = client.hget(KEY, "ada").decode()
    assert stored.startswith("$argon2id$")
    assert "oolong" not in stored
