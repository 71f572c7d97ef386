// The client against the real server, whose address and cookie's name are in the environment.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ClosedError, RPCError, TimeoutError, connect } from "../../sstream/client/sstream.js";
import { collect, failure, next } from "./setup.mjs";

const url = process.env.SERVER;

/** A browser's cookie jar, as far as one server and one cookie want it. */
class Jar {
  cookie = null;

  get options() {
    const jar = this;
    class WithCookie extends WebSocket {
      constructor(address, protocols) {
        super(address, { protocols, headers: jar.cookie ? { cookie: jar.cookie } : {} });
      }
    }
    const fetchWithCookie = async (address, request) => {
      const headers = { ...request.headers, ...(jar.cookie && { cookie: jar.cookie }) };
      const reply = await fetch(address, { ...request, headers });
      jar.cookie = reply.headers.getSetCookie()[0]?.split(";")[0] ?? jar.cookie;
      return reply;
    };
    return { WebSocket: WithCookie, fetch: fetchWithCookie };
  }
}

async function open(t, options) {
  const s = connect(url, { backoff: { max: 0.1 }, ...options });
  t.after(() => s.close());
  return s.ready();
}

for (const protocols of ["sstream.v1.msgpack", "sstream.v1.json"])
  test(`calls, errors and streams in ${protocols}`, async (t) => {
    const s = await open(t, { protocols });

    assert.equal(await s.rpc.add(2, 3), 5);
    assert.deepEqual(await s.call("echo", [{ a: [1, null, "é😀"], b: 1.5 }]), { a: [1, null, "é😀"], b: 1.5 });
    const wrong = await failure(s.call("add", ["2", 3]));
    assert.ok(wrong instanceof RPCError);
    assert.equal(wrong.code, -32602);
    assert.match(wrong.message, /a/);
    assert.equal((await failure(s.call("nothing"))).code, -32601);
    assert.equal((await failure(s.call("break"))).message, "internal error");
    const items = [];
    for await (const item of s.stream("count", [100], { credit: 7 })) items.push(item);
    assert.deepEqual(
      items,
      Array.from({ length: 100 }, (_, i) => i),
    );
  });

test("every call of a thousand at once gets its own reply", async (t) => {
  const s = await open(t);

  const replies = await Promise.all(Array.from({ length: 1000 }, (_, i) => s.call("add", [i, 1])));

  assert.deepEqual(
    replies,
    replies.map((_, i) => i + 1),
  );
});

test("bytes, big integers, dates and floats go through", async (t) => {
  const s = await open(t);
  const at = new Date(1_700_000_000_123);

  assert.deepEqual(await s.call("bytes", [new Uint8Array([1, 2])]), new Uint8Array([2, 1]));
  assert.equal(await s.call("integer", [2n ** 63n - 1n]), 2n ** 63n - 1n);
  assert.equal(await s.call("integer", [at.getTime()]), at.getTime());
  assert.equal(await s.call("number", [3]), 3);
  assert.deepEqual(await s.call("later", [at]), new Date(at.getTime() + 1000));
  assert.equal(await s.call("echo", ["half \ud83d"]), "half \ufffd");
});

test("leaving a stream, an abort and a timeout cancel the method on the server", async (t) => {
  const s = await open(t);
  const cancelled = async (start) => {
    const told = next(s, "cancelled");
    await start();
    return (await told)[0];
  };

  assert.equal(
    await cancelled(async () => {
      for await (const item of s.stream("forever")) if (item === 40) break;
    }),
    "forever",
  );
  assert.equal(
    await cancelled(async () => {
      const controller = new AbortController();
      const started = next(s, "started");
      const call = failure(s.call("slow", [], { signal: controller.signal }));
      await started;
      controller.abort();
      assert.equal((await call).name, "AbortError");
    }),
    "slow",
  );
  assert.equal(
    await cancelled(async () => assert.ok((await failure(s.call("slow", [], { timeout: 0.05 }))) instanceof TimeoutError)),
    "slow",
  );
});

test("the server calls what is exposed", async (t) => {
  const s = await open(t);
  s.expose("confirm", async (text) => `${text}: yes`);
  s.expose("refuse", () => {
    throw new RPCError(4003, "no", { by: "me" });
  });

  assert.equal(await s.call("ask", ["confirm", "sure"]), "sure: yes");
  assert.deepEqual(await s.call("ask", ["refuse", ""]), [4003, "no", { by: "me" }]);
});

test("a lost connection comes back; the calls of the old one are rejected, queued ones are answered", async (t) => {
  const s = await open(t);
  const started = next(s, "started");
  const pending = failure(s.call("slow"));
  await started;
  const waiting = next(s, "waiting");

  s.notify("drop", [1012]);
  const [{ code }] = await waiting;
  const queued = s.call("add", [1, 1], { queue: true });

  assert.equal(code, 1012);
  assert.ok((await pending) instanceof ClosedError);
  assert.equal(await queued, 2);
});

test("an event to the socket, to all and to a channel arrives", async (t) => {
  const s = await open(t);
  const lobby = s.channel("lobby");
  await lobby.subscribe();
  const events = [next(s, "mine"), next(s, "everybody"), next(lobby, "said")];

  await s.call("tell", ["lobby", "said", "hello"]);

  assert.deepEqual(await Promise.all(events), [["to the socket"], ["to all"], ["hello"]]);
  await lobby.unsubscribe();
});

test("a channel that is not open is refused", async (t) => {
  const s = await open(t);

  assert.equal((await failure(s.channel("secret").subscribe())).code, 4003);
});

test("who is in a channel is told, with those who come and go", async (t) => {
  const [ann, bob] = await Promise.all([open(t, new Jar().options), open(t, new Jar().options)]);
  await ann.call("log_in", ["ann"]);
  await bob.call("log_in", ["bob"]);
  const house = ann.channel("house");
  const joined = collect(house, "joined");

  await house.subscribe();
  await bob.channel("house").subscribe();
  while (joined.length < 2) await next(house, "joined");

  assert.deepEqual(joined.map(([user]) => user), ["ann", "bob"]);
  assert.deepEqual(await house.presence(), [{ user: "ann", about: {} }, { user: "bob", about: {} }]);
  const stranger = await open(t);
  assert.equal((await failure(stranger.channel("house").presence())).code, 4003);
});

test("what was said while the socket was away is recovered, once and in order", async (t) => {
  const [s, other] = [await open(t, { backoff: { random: () => 1, min: 1000, max: 1000 } }), await open(t)];
  const room = s.channel("history:one");
  const said = collect(room, "said");
  const gaps = collect(s, "gap");
  await room.subscribe();

  for (const n of [1, 2]) await other.call("say", ["history:one", n]);
  const lost = next(s, "waiting");
  s.notify("drop", [1001]);
  await lost;
  for (const n of [3, 4]) await other.call("say", ["history:one", n]);
  const last = new Promise((resolve) => room.on("said", (n) => n === 5 && resolve()));
  s.open();
  await s.ready();
  await other.call("say", ["history:one", 5]);
  await last;

  assert.deepEqual(said.flat(), [1, 2, 3, 4, 5]);
  assert.deepEqual(gaps, []);
  assert.equal(room.position.offset, 5);

  const later = await open(t);
  const again = collect(later.channel("history:one"), "said");
  const { recovered } = await later.channel("history:one").subscribe({ since: { ...room.position, offset: 3 } });
  assert.equal(recovered, true);
  assert.deepEqual(again.flat(), [4, 5]);
});

test("what is too old to be recovered is told as a gap", async (t) => {
  const [s, other] = [await open(t, { backoff: { random: () => 1, min: 1000, max: 1000 } }), await open(t)];
  const room = s.channel("history:two");
  await room.subscribe();

  const lost = next(s, "waiting");
  s.notify("drop", [1001]);
  await lost;
  for (let n = 0; n < 20; n++) await other.call("say", ["history:two", n]); // ten are kept
  const gap = next(s, "gap");
  s.open();

  assert.deepEqual(await gap, ["history:two"]);
});

test("a session that begins on the socket reaches the cookie by a ticket, and a login renews it", async (t) => {
  const jar = new Jar();
  const replies = new EventTarget();
  const traded = [];
  const { WebSocket, fetch } = jar.options;
  const s = await open(t, {
    WebSocket,
    fetch: async (...request) => {
      const reply = await fetch(...request);
      traded.push(reply.status);
      replies.dispatchEvent(new Event("reply"));
      return reply;
    },
  });
  const trade = () => new Promise((resolve) => replies.addEventListener("reply", resolve, { once: true }));
  const view = (wanted) =>
    new Promise((resolve) => {
      const off = s.on("session", (view) => {
        if (JSON.stringify(view) === JSON.stringify(wanted)) resolve(off());
      });
    });

  const begun = Promise.all([trade(), view({ user: null, teas: ["oolong"] })]);
  await s.call("add_tea", ["oolong"]);
  await begun;
  const first = jar.cookie;
  const renewed = Promise.all([trade(), view({ user: "ann", teas: ["oolong"] })]);
  await s.call("log_in", ["ann"]);
  await renewed;
  const second = jar.cookie;
  const lost = next(s, "waiting");
  s.notify("drop", [1012]);
  await lost;
  await s.ready();

  assert.deepEqual(traded, [204, 204]);
  assert.ok(first && second && first !== second);
  assert.deepEqual(await s.call("teas"), ["oolong"]);

  const closed = next(s, "closed");
  await s.call("log_out");
  const [{ code, reason }] = await closed;
  assert.deepEqual([code, reason], [4401, "session ended"]);
  assert.equal(s.session, null);
});

test("a ticket that was made up is refused", async (t) => {
  const s = await open(t);
  const error = next(s, "error");

  await s.call("offer", ["made-up"]);

  assert.match((await error)[0].message, /403/);
});

test("a sign of life is answered", async (t) => {
  const s = await open(t);

  assert.equal((await failure(s.call("sstream.ping"))).code, -32601);
});
