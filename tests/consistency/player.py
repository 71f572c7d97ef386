"""Plays a schedule on two real processes, and holds everything that comes back against the model."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import redis.asyncio as aioredis
from tornado.httpclient import HTTPClientError

from sstream import RPCError
from sstream.errors import CANCELLED, CONFLICT, SESSION_GONE, UNAVAILABLE
from sstream.testing import (
    Browser,
    CookieJar,
    Fault as ProxyFault,
    FaultProxy,
    Page,
    Process,
    RedisServer,
    Socket,
    SocketClosed,
)
from tests.consistency import schedule as steps
from tests.consistency.model import Model, Outcome, Record, Violation
from tests.consistency.schedule import PROCESSES, SLOTS, USERS, Schedule

__all__ = ["House", "Play"]

APP = Path(__file__).with_name("app.py")
HEALING = 20.0  # seconds until all must be well again after the last fault; only a failure meets it
NOTICE = 0.01  # seconds between two looks
ORPHAN_TTL = 60  # seconds; of a copy that was placed for a move

_CUTS = {"before": ProxyFault.CUT_BEFORE, "reply": ProxyFault.CUT_REPLY, "after": ProxyFault.CUT_AFTER}


class House:
    """Redis, and two processes of the application that reach it through a proxy each."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.redis = aioredis.Redis.from_url(server.url)
        self.proxies = [FaultProxy(server.port) for _ in PROCESSES]
        self.urls: list[str] = []
        self._processes: list[Process] = []
        self._heard = [0, 0]  # how much of each process' log has been looked at

    async def __aenter__(self) -> Self:
        for proxy in self.proxies:
            await proxy.start()
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()
        for proxy in self.proxies:
            await proxy.close()
        await self.redis.aclose()

    async def restart(self) -> None:
        """Begin anew, with new processes."""
        await self._stop()
        await self._start()

    async def _start(self) -> None:
        await self.heal()
        await self.redis.flushall()
        self._processes = [Process(sys.executable, APP, proxy.url) for proxy in self.proxies]
        self._heard = [0, 0]
        self.urls = []
        for process in self._processes:
            started = await asyncio.to_thread(process.wait_for, r"listening on (\S+)\n", timeout=60.0)
            self.urls.append(started[1])
        self.complaints()

    async def _stop(self) -> None:
        for process in self._processes:
            await asyncio.to_thread(process.stop)

    async def heal(self) -> None:
        """End every fault."""
        for proxy in self.proxies:
            proxy.clear()
            proxy.thaw()
            await proxy.accept()

    def complaints(self) -> str:
        """What the processes have logged as an error since this was asked last."""
        found = []
        for number, process in enumerate(self._processes):
            log = process.log
            found.append(log[self._heard[number] :])
            self._heard[number] = len(log)
            if process.returncode is not None:
                found.append(f"process {number} has ended with {process.returncode}\n")
        return "".join(found)


class Visitor:
    """A person at a browser, with one cookie jar for both processes."""

    def __init__(self, play: "Play", number: int) -> None:
        self.number = number
        self.user = USERS[number]
        self.jar = CookieJar()
        self.tabs = [_Tab(play, self, process) for process in PROCESSES]
        self.cookies: dict[str, None] = {}  # every cookie that the browser has had

    def note_cookie(self) -> None:
        """Look into the jar."""
        if "connect.sid" in self.jar:
            self.cookies[self.jar["connect.sid"]] = None


class _Tab(Browser):
    """A browser that tells when it trades a ticket, and does so as the schedule wants it."""

    def __init__(self, play: "Play", visitor: Visitor, process: int) -> None:
        super().__init__(play.house.urls[process])
        self.jar = visitor.jar
        self._play = play
        self._visitor = visitor
        self._process = process

    async def settle(self) -> None:
        """Wait for no ticket: its trade may fall together with whatever comes next."""

    async def trade(self, *arguments: Any, **options: Any) -> Page:
        match self._play.schedule.trades:
            case "never":
                return Page(0, msgspec.UNSET, b"")  # type: ignore[arg-type]  # nobody looks at it
            case "elsewhere":
                tab = self._visitor.tabs[1 - self._process]
            case _:
                tab = self
        return await self._play.trade(self._visitor, tab, super(_Tab, tab).trade(*arguments, **options))


class Connection:
    """A websocket, and its number in the model."""

    def __init__(self, number: int, visitor: Visitor, process: int, socket: Socket) -> None:
        self.number = number
        self.visitor = visitor
        self.process = process
        self.socket = socket
        self.closed_by_us = False

    def view(self) -> Any:
        """What the server last said the session is."""
        views = [event[1][0] for event in self.socket.events if event[0] == "session"]
        return views[-1] if views else None


class Play:
    """One run of one schedule."""

    def __init__(self, house: House, schedule: Schedule) -> None:
        self.house = house
        self.schedule = schedule
        self.model = Model(USERS)
        self.visitors = [Visitor(self, number) for number in range(len(USERS))]
        named = {getattr(step, "visitor", 0) for step in schedule.steps}
        self._actors = [visitor for visitor in self.visitors if visitor.number in named]
        self._slots: list[Connection | None] = [None] * SLOTS
        self._connections: list[Connection] = []
        self._running: set[asyncio.Future[None]] = set()
        self._failures: list[BaseException] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._began = time.monotonic()

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def run(self) -> None:
        """Play it; raises `Violation`."""
        try:
            for step in self.schedule.steps:
                await self._take(step)
                self._raise_failures()
            await self._settle()
            await self._finale()
        finally:
            await self._clean_up()
        if complaints := self.house.complaints().strip():
            raise Violation(f"the processes have logged:\n{complaints}")

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def _take(self, step: steps.Step) -> None:
        match step:
            case steps.Order(slot=None):
                visitor = self.visitors[step.visitor]
                await self._do(self._on_page(step, visitor, visitor.tabs[step.process]), step.beside)
            case steps.Order(slot=slot):
                connection = self._slots[slot]
                if connection is not None and not connection.socket.is_closed:
                    await self._do(self._on_socket(step, connection), step.beside)
            case steps.Open():
                await self._close(step.slot)
                await self._open(step.slot, self.visitors[step.visitor], step.process)
            case steps.Close():
                await self._close(step.slot)
            case steps.Replay():
                await self._replay(step)
            case steps.Fault():
                await self._fault(step)
            case steps.Redis():
                await self._by_hand(step)
            case steps.Wait(seconds=None):
                await self._all_done()
            case steps.Wait(seconds=seconds):
                await asyncio.sleep(seconds or 0)

    async def _do(self, work: Awaitable[None], beside: bool) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._reap)
        if beside:
            await asyncio.sleep(0)  # it is sent now
        else:
            await asyncio.wait([task])

    def _reap(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    def _raise_failures(self) -> None:
        if self._failures:
            raise self._failures[0]

    async def _all_done(self) -> None:
        while self._running:
            await asyncio.wait(list(self._running))

    def _message(self, order: steps.Order, record: Record, visitor: Visitor) -> dict[str, Any]:
        return {
            "kind": order.kind,
            "key": record.key,
            "number": record.number,
            "visitor": visitor.number,
            "user": visitor.user,
            "nap": order.nap,
        }

    async def _on_page(self, order: steps.Order, visitor: Visitor, tab: Browser) -> None:
        record = self.model.begin(
            order.kind,
            self._now(),
            visitor=visitor.number,
            process=self.house.urls.index(tab.url),
            shown=tab.sid,
            key=order.key,
            user=visitor.user,
        )
        try:
            page = await tab.post("/do", json=self._message(order, record, visitor))
        except ConnectionError as error:
            record.note = str(error)
            return
        visitor.note_cookie()
        match page.status:
            case 200:
                seen = page.json
                self._check_cookie(record, seen, tab.sid, given=bool(page.cookies))
                self.model.done(record, self._now(), seen)
            case 409:
                self.model.refused(record, self._now())
            case 503:
                record.note = "503"
            case status:
                raise Violation(f"{record}: answered {status}: {page.text}")

    @staticmethod
    def _check_cookie(record: Record, seen: Mapping[str, Any], sid: str | None, *, given: bool) -> None:
        is_new = seen["mark"] is not None and (seen["before"] is None or record.kind == "login")
        if is_new and not (given and sid == seen["sid"]):
            raise Violation(f"{record}: the browser was not given the new id")
        # Who comes with an old id learns no new one: it may have been planted.
        if given and not is_new:
            raise Violation(f"{record}: the browser was given an id without a reason")

    async def _on_socket(self, order: steps.Order, connection: Connection) -> None:
        record = self.model.begin(
            order.kind,
            self._now(),
            visitor=connection.visitor.number,
            process=connection.process,
            connection=connection.number,
            key=f"own{connection.number}" if order.kind == "add" else order.key,
            user=connection.visitor.user,
        )
        socket, call_id = connection.socket, f"order {record.number}"
        method = "do_at_once" if order.plain else "do"
        try:
            message = self._message(order, record, connection.visitor)
            reply = socket.send_call([0, call_id, method, [message]])
            if order.cancel is not None:
                await asyncio.sleep(order.cancel)
                socket.send([3, call_id])
            seen = await socket.reply(reply, f"a reply to {record}")
        except RPCError as error:
            record.note = str(error)
            if error.code == SESSION_GONE or (error.code == CONFLICT and order.kind == "fail"):
                self.model.refused(record, self._now())
            elif error.code != UNAVAILABLE and not (error.code == CANCELLED and order.cancel is not None):
                raise Violation(f"{record}: answered {error}") from error
        except SocketClosed as error:
            record.note = str(error)
        else:
            self.model.done(record, self._now(), seen)

    async def trade(self, visitor: Visitor, tab: Browser, trading: Awaitable[Page]) -> Page:
        """A browser trades a ticket."""
        record = self.model.begin("trade", self._now(), visitor=visitor.number, shown=tab.sid)
        ended = asyncio.get_running_loop().create_future()
        self._running.add(ended)  # nobody looks at Redis in the midst of a move
        try:
            page = await trading
        finally:
            self._running.discard(ended)
            ended.set_result(None)
        record.note = str(page.status)
        visitor.note_cookie()
        if page.status == 204 and page.cookies:
            assert tab.sid is not None
            self.model.traded(record, self._now(), tab.sid)
        elif page.status not in {204, 403, 503}:
            self._failures.append(Violation(f"{record}: answered {page.status}: {page.text}"))
        return page

    async def _open(self, slot: int, visitor: Visitor, process: int) -> None:
        tab = visitor.tabs[process]
        number = len(self._connections)
        record = self.model.begin(
            "open", self._now(), visitor=visitor.number, process=process, connection=number, shown=tab.sid
        )
        try:
            socket = await tab.connect()
        except HTTPClientError as error:
            raise Violation(f"{record}: the handshake was answered {error}") from error
        record.end, record.outcome = self._now(), Outcome.DONE
        self._slots[slot] = Connection(number, visitor, process, socket)
        self._connections.append(self._slots[slot])  # type: ignore[arg-type]  # it is one

    async def _close(self, slot: int) -> None:
        connection, self._slots[slot] = self._slots[slot], None
        if connection is not None:
            connection.closed_by_us = not connection.socket.is_closed
            await connection.socket.close()

    async def _replay(self, step: steps.Replay) -> None:
        visitor = self.visitors[step.visitor]
        cookies = list(visitor.cookies)
        if cookies:
            thief = Browser(self.house.urls[step.process], {"connect.sid": cookies[step.which % len(cookies)]})
            await self._do(self._on_page(steps.Order("put", key=steps.KEYS[0]), visitor, thief), step.beside)

    async def _fault(self, step: steps.Fault) -> None:
        proxy = self.house.proxies[step.process]
        loop = asyncio.get_running_loop()
        if step.skip and step.kind in {*_CUTS, "error", "late"}:
            proxy.on(step.command, ProxyFault.DELAY, times=step.skip)
        match step.kind:
            case "before" | "reply" | "after":
                proxy.on(step.command, _CUTS[step.kind])
            case "error":
                proxy.on(step.command, ProxyFault.ERROR, message=step.message)
            case "late":
                proxy.on(step.command, ProxyFault.DELAY, seconds=step.seconds)
            case "slow":
                proxy.delay = step.seconds
            case "cut":
                proxy.cut()
            case "freeze":
                proxy.freeze()
                self._timers.append(loop.call_later(step.seconds, proxy.thaw))
            case "refuse":
                proxy.refuse()
                self._timers.append(loop.call_later(step.seconds, self._accept, proxy))
            case "heal":
                proxy.clear()
                proxy.thaw()
                await proxy.accept()

    def _accept(self, proxy: FaultProxy) -> None:
        task = asyncio.ensure_future(proxy.accept())
        self._running.add(task)
        task.add_done_callback(self._reap)

    async def _by_hand(self, step: steps.Redis) -> None:
        redis = self.house.redis
        match step.kind:
            case "scripts":
                await redis.script_flush()
            case "ears":
                await redis.client_kill_filter(_type="pubsub")
            case "del":
                sid = self.visitors[step.visitor].tabs[0].sid
                if sid is not None:
                    record = self.model.begin("del", self._now(), process=-1)
                    text = await redis.getdel(f"sess:{sid}")
                    self.model.done_by_hand(record, self._now(), [] if text is None else [_data(text)["mark"]])
            case "flush":
                record = self.model.begin("flush", self._now(), process=-1)
                async with redis.pipeline(transaction=True) as pipeline:
                    # What is flushed is what was there: all in one step.
                    pipeline.eval(_READ_ALL, 0)
                    pipeline.flushdb()
                    texts, _ = await pipeline.execute()
                self.model.done_by_hand(record, self._now(), [_data(text)["mark"] for text in texts[1::3]])

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """End all faults, and wait until all that was asked for is answered and both processes are well."""
        for timer in self._timers:
            timer.cancel()
        await self.house.heal()
        await self._all_done()
        self._raise_failures()
        for number, url in enumerate(self.house.urls):

            async def is_ready(browser: Browser = Browser(url)) -> str | None:
                page = await browser.get("/_sstream/health/ready")
                return None if page.status == 200 else page.text

            await self._until(is_ready, f"process {number} is not ready again")

    async def _finale(self) -> None:
        """Everybody must see what is stored, and nothing may be stored that must not be."""
        await self._agree()
        for visitor in self._actors:
            for tab in visitor.tabs:
                await self._must(self._on_page, steps.Order("count", key="n"), visitor, tab)
        for connection in list(self._open_ones()):
            await self._must(self._on_socket, steps.Order("count", key="n"), connection)
            await self._must(self._on_socket, steps.Order("add", plain=True), connection)
        await self._agree()
        for connection in self._connections:
            if connection.socket.is_closed and not connection.closed_by_us:
                self.model.check_closed(connection.number, (await connection.socket.closed()).code, self._now())

    async def _must(self, carry_out: Callable[..., Awaitable[None]], order: steps.Order, *where: Any) -> None:
        """Nothing is broken any more: what is asked for is done."""

        async def is_done() -> str | None:
            await carry_out(order, *where)
            self._raise_failures()
            record = next(record for record in reversed(self.model.records) if record.kind == order.kind)
            return None if record.outcome is not Outcome.UNKNOWN else str(record)

        await self._until(is_done, "all is well, and yet it is not done")

    async def _until(self, complaint: Callable[[], Awaitable[str | None]], what: str) -> None:
        deadline = self._now() + HEALING
        while (text := await complaint()) is not None:
            if self._now() > deadline:
                raise Violation(f"{what}, {HEALING:g} s after the last fault: {text}")
            await asyncio.sleep(NOTICE)

    def _open_ones(self) -> list[Connection]:
        return [one for one in self._slots if one is not None and not one.socket.is_closed]

    async def _agree(self) -> None:
        await self._until(self._disagreement, "not all see what is stored")
        await self._all_done()  # tickets
        self._raise_failures()
        stored, orphans = await self._stored()
        self.model.check_stored(stored, orphans, self._now())

    async def _stored(self) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """What Redis has under each id; and the ids that a move may have left, with a minute to live.

        One that is only about to move has as little, and says so.
        """
        found = await self.house.redis.eval(_READ_ALL, 0)  # type: ignore[misc]  # redis-py: awaitable or not
        stored, orphans = {}, set()
        for key, text, ttl in zip(found[::3], found[1::3], found[2::3], strict=True):
            sid = key.decode().removeprefix("sess:")
            stored[sid] = _data(text)
            if ttl <= ORPHAN_TTL and b'"moves"' not in text:
                orphans.add(sid)
        return stored, orphans

    async def _disagreement(self) -> str | None:
        """Who sees anything else than what is stored."""
        stored, orphans = await self._stored()
        by_mark = {mark: stored[sid] for mark, sid in self.model.homes(stored, orphans).items()}
        for one in self._open_ones():
            mark = self.model.mark_of(one.number)
            data = by_mark.get(mark or "", {})
            if mark is not None and not data:
                return f"socket {one.number} is open, and its session {mark} is not stored"
            # Before anything is asked: it must have been told.
            if mark is not None and one.view() != data:
                return f"socket {one.number} was told {one.view()}, stored is {data}"
        for one in self._open_ones():
            record = self.model.begin(
                "look", self._now(), visitor=one.visitor.number, process=one.process, connection=one.number
            )
            order = steps.Order("look")
            try:
                seen = await one.socket.call("do_at_once", self._message(order, record, one.visitor))
            except (RPCError, SocketClosed) as error:
                record.note = str(error)
                return str(record)
            self.model.done(record, self._now(), seen)
            if seen["data"] != by_mark.get(seen["mark"], {}):
                return f"socket {one.number} sees {seen['data']}, stored is {by_mark.get(seen['mark'])}"
        for visitor in self._actors:
            for tab in visitor.tabs:
                record = self.model.begin(
                    "look", self._now(), visitor=visitor.number, process=self.house.urls.index(tab.url), shown=tab.sid
                )
                page = await tab.post("/do", json=self._message(steps.Order("look"), record, visitor))
                if page.status != 200:
                    record.note = str(page.status)
                    return str(record)
                self.model.done(record, self._now(), page.json)
                if page.json["data"] != stored.get(tab.sid or "", {}):
                    return f"a page sees {page.json['data']}, stored is {stored.get(tab.sid or '')}"
        return None

    async def _clean_up(self) -> None:
        for timer in self._timers:
            timer.cancel()
        await self.house.heal()
        for connection in self._connections:
            with contextlib.suppress(AssertionError):  # a failure of its own was raised already
                await connection.socket.close()
        await self._all_done()
        await self.house.redis.flushall()


# Every session's key, text and lifetime, in one step.
_READ_ALL = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'sess:*')) do
    table.insert(found, key)
    table.insert(found, redis.call('GET', key))
    table.insert(found, redis.call('TTL', key))
end
return found
"""


def _data(text: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(text)
    return {key: value for key, value in fields.items() if key not in {"cookie", "_sstream"}}
