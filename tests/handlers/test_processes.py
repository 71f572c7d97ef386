"""Two processes that share a Redis."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from sstream.testing import Browser, Process, Site, Socket

from .live import ENDED, ROOT


@pytest.fixture(scope="module")
def processes(redis_server: str) -> Iterator[list[Process]]:
    """Two processes of one application on one Redis."""
    processes = [Process(sys.executable, ROOT / "tests/apps/two.py", redis_server, cwd=ROOT) for _ in range(2)]
    try:
        for process in processes:
            process.wait_for(r"^listening on ", timeout=60)
        yield processes
    finally:
        for process in processes:
            process.stop()


@pytest.fixture
async def two(processes: list[Process], redis_url: str) -> AsyncIterator[tuple[Site, Site]]:
    """The same, on a database that is empty; whatever a process writes to its log fails the test."""
    written = [len(process.log) for process in processes]
    sites = [Site(process.wait_for(r"^listening on (\S+)$")[1]) for process in processes]
    yield sites[0], sites[1]
    for site in sites:
        await site.close()
    assert [process.log[start:] for process, start in zip(processes, written, strict=True)] == ["", ""]


async def test_a_change_in_one_process_is_seen_by_sockets_of_the_other(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    tab = beyond(browser, there)
    socket = await tab.connect()
    assert await socket.receive("session") == [{"teas": 1}]

    await browser.get("/tea")
    by_page = await socket.receive("session")
    neighbour = await browser.connect()
    await neighbour.receive("session")
    await neighbour.call("cart.add", "tea")
    by_call = await socket.receive("session")

    assert [by_page, by_call] == [[{"teas": 2}], [{"teas": 3}]]
    assert await socket.call("cart.add", "tea") == {"tea": 4}
    assert [await neighbour.receive("session") for _ in range(2)] == [[{"teas": 3}], [{"teas": 4}]]
    assert (await browser.get("/look")).json == {"cart": {"tea": 4}}


async def test_a_logout_in_one_process_closes_the_sockets_of_the_other(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    tab = beyond(browser, there)
    sockets = [await browser.connect(), await tab.connect(), await tab.connect()]

    await browser.get("/logout")

    for socket in sockets:
        assert await socket.receive("ended") == ["destroyed"]
        assert await socket.closed() == ENDED


async def test_a_login_by_socket_takes_the_sockets_of_the_other_process_along(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    old = browser.sid
    tab = beyond(browser, there)
    mine, other = await browser.connect(), await tab.connect()

    await mine.call("account.login", "fred")
    traded = await mine.traded()
    after = beyond(browser, there)
    by_other = await other.call("cart.add", "tea")
    by_page = (await after.get("/tea")).json
    # What one process has stored reaches the other in a moment, and not before its next call.
    while await mine.receive("session") != [{"teas": 3}]:
        pass
    by_mine = await mine.call("cart.add", "tea")

    assert (traded.status, browser.sid != old) == (204, True)
    assert [by_other, by_page, by_mine] == [{"tea": 2}, {"tea": 3}, {"tea": 4}]
    assert (await tab.get("/look")).json == {}  # it still has the old cookie
    assert not other.is_closed


async def test_a_ticket_may_be_traded_at_the_other_process(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    socket = await browser.connect(trades=False)
    await socket.call("account.login", "fred")
    ticket, _ = await socket.receive("sstream:ticket")
    tab = beyond(browser, there)

    traded = await tab.trade(ticket)

    assert traded.status == 204
    assert (await tab.get("/look")).json["userId"] == "fred"
    assert (await browser.get("/look")).json == {}
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await tab.get("/look")).json["cart"] == {"tea": 2}


async def test_an_event_published_in_one_process_reaches_the_sockets_of_the_other_once(two: tuple[Site, Site]) -> None:
    here, there = two
    fred, anna = here.browser(), there.browser()
    await fred.get("/login?name=fred")
    await anna.get("/login?name=anna")
    first, second = await fred.connect(), await anna.connect()
    for name, socket in (("fred", first), ("anna", second)):
        await until_it_listens(socket, name, first)

    await first.call("say", "user", "anna", "to anna")
    await first.call("say", "socket", await second.call("me"), "to one")
    await first.call("say", "user", "fred", "to fred")
    await first.call("say", "all", None, "to all")
    await first.call("say", "all", None, "marker")

    for socket in (first, second):
        await socket.receive("marker")
    others = {"session", "are you there"}
    names = [[event[0] for event in socket.events if event[0] not in others] for socket in (first, second)]
    assert names == [["to fred", "to all"], ["to anna", "to one", "to all"]]
    assert await second.receive("to all") == ["args", 1]


async def until_it_listens(socket: Socket, user: str, publisher: Socket) -> None:
    """A socket is open a moment before Redis sends it the events of its user."""
    while "are you there" not in [event[0] for event in socket.events]:
        await publisher.call("say", "user", user, "are you there")


async def test_end_all_in_one_process_ends_the_users_sockets_in_the_other(two: tuple[Site, Site]) -> None:
    here, there = two
    fred_here, fred_there = here.browser(), there.browser()
    await fred_here.get("/login?name=fred")
    await fred_there.get("/login?name=fred")
    mine, other = await fred_here.connect(), await fred_there.connect()

    ended = await mine.call("account.end_others")

    assert ended == 1
    assert await other.receive("ended") == ["ended"]
    assert await other.closed() == ENDED
    assert (await mine.call("cart.show"))["userId"] == "fred"


async def test_writes_from_both_processes_at_once_are_all_kept(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    twin = beyond(browser, there)
    sockets = [await browser.connect(), await twin.connect()]

    await asyncio.gather(
        *(socket.call("put", f"socket-{place}-{turn}") for turn in range(15) for place, socket in enumerate(sockets)),
        *(tab.get(f"/put?page-{place}-{turn}=x") for turn in range(15) for place, tab in enumerate((browser, twin))),
        *(socket.call("count") for socket in sockets for _ in range(15)),
    )

    data = (await browser.get("/look")).json
    assert len(data) == 1 + 30 + 30 + 1
    assert data["n"] == 30


def beyond(browser: Browser, site: Site) -> Browser:
    """The same visitor, at another process."""
    twin = site.browser()
    twin.jar["connect.sid"] = browser.jar["connect.sid"]
    return twin
