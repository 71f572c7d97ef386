import assert from "node:assert/strict";
import { test } from "node:test";
import { ClosedError, RPCError, TimeoutError } from "../../sstream/client/sstream.js";
import { collect, dial, failure, mockTime, next, open, serve, settled } from "./setup.mjs";

test("a call is one message and its reply", async (t) => {
  const { s, peer } = await open(t);

  const reply = s.call("cart.add", ["tea", 1]);
  assert.deepEqual(await peer.take(), [0, 1, "cart.add", ["tea", 1]]);
  peer.reply(1, { tea: 1 });

  assert.deepEqual(await reply, { tea: 1 });
});

test("the socket offers the MessagePack subprotocol", async (t) => {
  const { peer } = await open(t);

  assert.equal(peer.protocol, "sstream.v1.msgpack");
});

test("replies find their calls in any order", async (t) => {
  const { s, peer } = await open(t);

  const replies = [s.call("a"), s.call("b"), s.call("c")];
  const calls = [await peer.takeCall("a"), await peer.takeCall("b"), await peer.takeCall("c")];
  for (const { id } of calls.toReversed()) peer.reply(id, id * 10);

  assert.deepEqual(
    await Promise.all(replies),
    calls.map(({ id }) => id * 10),
  );
});

test("rpc spells a call as a method", async (t) => {
  const { s, peer } = await open(t);

  const reply = s.rpc.shop.cart.add("tea", 1);
  const { id, params } = await peer.takeCall("shop.cart.add");
  peer.reply(id, "ok");

  assert.deepEqual(params, ["tea", 1]);
  assert.equal(await reply, "ok");
});

test("a part of rpc is no promise", async (t) => {
  const { s, peer } = await open(t);

  const cart = await s.rpc.cart;
  const reply = cart.clear();
  peer.reply((await peer.takeCall("cart.clear")).id, true);

  assert.equal(await reply, true);
});

test("an error reply is an RPCError", async (t) => {
  const { s, peer } = await open(t);

  const reply = s.call("cart.add", [1]);
  const { id } = await peer.takeCall("cart.add");
  peer.send([1, id, [-32602, "item: expected str", { path: "item" }], null]);

  const error = await failure(reply);
  assert.ok(error instanceof RPCError);
  assert.equal(error.name, "RPCError");
  assert.deepEqual([error.code, error.message, error.data], [-32602, "item: expected str", { path: "item" }]);
});

test("the server's timeout is a TimeoutError", async (t) => {
  const { s, peer } = await open(t);

  const reply = s.call("slow");
  const { id } = await peer.takeCall("slow");
  peer.send([1, id, [4000, "timeout", null], null]);

  const error = await failure(reply);
  assert.ok(error instanceof TimeoutError && error instanceof RPCError);
  assert.deepEqual([error.name, error.code, error.data], ["TimeoutError", 4000, null]);
});

test("a call that takes too long is cancelled on the server and its late reply is ignored", async (t) => {
  const { s, peer } = await open(t);

  const error = await failure(s.call("slow", [], { timeout: 0.01 }));
  const { id, meta } = await peer.takeCall("slow");
  const cancel = await peer.take();
  peer.reply(id, "late");
  await settled(s, peer);

  assert.ok(error instanceof TimeoutError);
  assert.deepEqual(meta, { timeout: 0.01 });
  assert.deepEqual(cancel, [3, id]);
});

test("the server is told a timeout only where one was set", async (t) => {
  const { s, peer } = await open(t, { timeout: 7 });
  const { s: other, peer: otherPeer } = await open(t);

  s.call("a").catch(() => {});
  s.call("b", [], { timeout: 3 }).catch(() => {});
  s.call("c", [], { timeout: null, traceparent: "00-1-2-3" }).catch(() => {});
  other.call("d").catch(() => {});

  assert.deepEqual((await peer.takeCall("a")).meta, { timeout: 7 });
  assert.deepEqual((await peer.takeCall("b")).meta, { timeout: 3 });
  assert.deepEqual((await peer.takeCall("c")).meta, { traceparent: "00-1-2-3" });
  assert.equal((await otherPeer.takeCall("d")).meta, undefined);
});

test("a call ends after 30 seconds by itself, one without a timeout never, nor one with a huge one", async (t) => {
  mockTime(t);
  const { s, peer } = await open(t);

  const usual = failure(s.call("usual"));
  const endless = s.call("endless", [], { timeout: null });
  const huge = s.call("huge", [], { timeout: 1e10 });
  await peer.takeCall("usual");
  const { id } = await peer.takeCall("endless");
  const { id: hugeId } = await peer.takeCall("huge");
  for (let seconds = 0; seconds < 100; seconds += 5) {
    t.mock.timers.tick(5000);
    await settled(s, peer); // the server is there
  }
  assert.ok((await usual) instanceof TimeoutError);
  peer.reply(id, "done");
  peer.reply(hugeId, "done");

  assert.deepEqual(await Promise.all([endless, huge]), ["done", "done"]);
});

test("an aborted call is cancelled on the server and rejected with the signal's reason", async (t) => {
  const { s, peer } = await open(t);
  const controller = new AbortController();

  const reply = s.call("slow", [], { signal: controller.signal });
  const { id } = await peer.takeCall("slow");
  controller.abort();

  const error = await failure(reply);
  assert.equal(error, controller.signal.reason);
  assert.equal(error.name, "AbortError");
  assert.deepEqual(await peer.take(), [3, id]);
});

test("a falsy reason rejects like any other", async (t) => {
  const { s, peer } = await open(t);
  const controller = new AbortController();

  const reply = s.call("slow", [], { signal: controller.signal });
  await peer.takeCall("slow");
  controller.abort(0);

  assert.equal(await failure(reply), 0);
});

test("a call with an aborted signal sends nothing", async (t) => {
  const { s, peer } = await open(t);

  const error = await failure(s.call("never", [], { signal: AbortSignal.abort() }));
  s.notify("marker");

  assert.equal(error.name, "AbortError");
  assert.deepEqual(await peer.take(), [2, "marker", []]);
});

test("a signal that is aborted after the reply does nothing", async (t) => {
  const { s, peer } = await open(t);
  const controller = new AbortController();

  const reply = s.call("quick", [], { signal: controller.signal });
  peer.reply((await peer.takeCall("quick")).id, 1);
  await reply;
  controller.abort();
  s.notify("marker");

  assert.deepEqual(await peer.take(), [2, "marker", []]);
});

test("what cannot be sent rejects the call and harms no other", async (t) => {
  const { s, peer } = await open(t);
  const endless = [];
  endless.push(endless);

  for (const bad of [() => {}, Symbol("no"), 2n ** 64n, endless]) await failure(s.call("bad", [bad]));
  const reply = s.call("good");
  peer.reply((await peer.takeCall("good")).id, 1);

  assert.equal(await reply, 1);
});

test("a call keeps the parameters that it was made with", async (t) => {
  const server = await serve(t);
  const s = dial(t, server.url);
  const params = [{ count: 1 }];

  s.call("set", params).catch(() => {});
  params[0].count = 2;
  const peer = await server.accept();

  assert.deepEqual((await peer.takeCall("set")).params, [{ count: 1 }]);
});

test("notify sends a call without reply, and tells when it could not", async (t) => {
  const { server, s, peer } = await open(t);

  assert.equal(s.notify("typing", ["lobby"]), true);
  assert.deepEqual(await peer.take(), [2, "typing", ["lobby"]]);
  peer.cut();
  await next(s, "waiting");
  assert.equal(s.notify("typing", ["lobby"]), false);
  await server.accept();
});

test("every pending call is rejected when the socket is lost", async (t) => {
  const { s, peer } = await open(t);

  const calls = [s.call("a"), s.call("b"), s.call("c")].map(failure);
  await peer.takeCall("a");
  peer.close(1012, "restart");

  for (const error of await Promise.all(calls)) {
    assert.ok(error instanceof ClosedError);
    assert.deepEqual([error.name, error.code, error.message], ["ClosedError", 1012, "restart"]);
  }
});

test("a call made while connecting waits for the connection", async (t) => {
  const server = await serve(t);
  const s = dial(t, server.url);

  assert.equal(s.state, "connecting");
  const reply = s.call("early", [1]);
  const peer = await server.accept();
  const { id, params } = await peer.takeCall("early");
  peer.reply(id, params[0] + 1);

  assert.equal(await reply, 2);
});

test("calls made while connecting leave first, in order, before those of a listener", async (t) => {
  const server = await serve(t);
  const s = dial(t, server.url);
  s.once("connected", () => s.notify("third"));

  for (const name of ["first", "second"]) s.call(name).catch(() => {});
  const peer = await server.accept();

  await peer.takeCall("first");
  await peer.takeCall("second");
  assert.deepEqual(await peer.take(), [2, "third", []]);
});

test("calls made while connecting are rejected when that fails", async (t) => {
  const server = await serve(t);
  server.refusals.push("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
  const s = dial(t, server.url);

  const error = await failure(s.call("early"));

  assert.ok(error instanceof ClosedError);
  assert.equal(error.code, 1006);
});

test("a call made while waiting is refused at once", async (t) => {
  const { s, peer } = await open(t, { backoff: { random: () => 0.9, min: 1000, max: 1000 } });

  peer.cut();
  await next(s, "waiting");

  assert.ok((await failure(s.call("now"))) instanceof ClosedError);
});

test("a call is never sent twice", async (t) => {
  const { server, s, peer } = await open(t);

  const error = failure(s.call("pay", [1]));
  await peer.takeCall("pay");
  peer.cut();
  const again = await server.accept();
  await s.ready();
  s.notify("marker");

  assert.ok((await error) instanceof ClosedError);
  assert.deepEqual(await again.take(), [2, "marker", []]);
});

test("a queued call is sent again until it is answered", async (t) => {
  const { server, s, peer } = await open(t);

  const reply = s.call("read", [1], { queue: true });
  const first = await peer.takeCall("read");
  peer.cut();
  const second = await server.accept();
  const again = await second.takeCall("read");
  second.reply(again.id, "answer");

  assert.deepEqual(again, first);
  assert.equal(await reply, "answer");
});

test("a queued call made while waiting leaves with the next connection, in order", async (t) => {
  const { server, s, peer } = await open(t);

  peer.cut();
  await next(s, "waiting");
  const replies = [s.call("a", [], { queue: true }), s.call("b", [], { queue: true })];
  const again = await server.accept();
  again.reply((await again.takeCall("a")).id, 1);
  again.reply((await again.takeCall("b")).id, 2);

  assert.deepEqual(await Promise.all(replies), [1, 2]);
});

for (const code of [1002, 1003, 1007, 1008, 1009])
  test(`a queued call is not sent again after ${code}: it may be what was refused`, async (t) => {
    const { server, s, peer } = await open(t);

    const error = failure(s.call("big", [], { queue: true }));
    await peer.takeCall("big");
    peer.close(code);
    const again = await server.accept();
    await s.ready();
    s.notify("marker");

    assert.equal((await error).code, code);
    assert.deepEqual(await again.take(), [2, "marker", []]);
  });

test("a queued call may time out while there is no connection", async (t) => {
  const { s, peer } = await open(t, { backoff: { random: () => 1, min: 1000, max: 1000 } });

  peer.cut();
  await next(s, "waiting");
  const error = await failure(s.call("read", [], { queue: true, timeout: 0.01 }));

  assert.ok(error instanceof TimeoutError);
});

test("a queued call that is aborted while there is no connection is never sent", async (t) => {
  const { server, s, peer } = await open(t);
  const controller = new AbortController();

  peer.cut();
  await next(s, "waiting");
  const error = failure(s.call("read", [], { queue: true, signal: controller.signal }));
  controller.abort();
  const again = await server.accept();
  await s.ready();
  s.notify("marker");

  assert.equal((await error).name, "AbortError");
  assert.deepEqual(await again.take(), [2, "marker", []]);
});

test("no more than maxQueue calls wait for a connection", async (t) => {
  const { server, s, peer } = await open(t, { maxQueue: 2 });

  peer.cut();
  await next(s, "waiting");
  const replies = [s.call("a", [], { queue: true }), s.call("b", [], { queue: true })];
  const error = await failure(s.call("c", [], { queue: true }));
  const again = await server.accept();
  again.reply((await again.takeCall("a")).id, 1);
  again.reply((await again.takeCall("b")).id, 2);

  assert.equal(error.code, 4029);
  assert.deepEqual(await Promise.all(replies), [1, 2]);
});

test("close rejects every call, queued ones too, and every later one", async (t) => {
  const { s, peer } = await open(t);

  const errors = [s.call("a"), s.call("b", [], { queue: true })].map(failure);
  s.close();
  errors.push(failure(s.call("c", [], { queue: true })));

  for (const error of await Promise.all(errors)) assert.deepEqual([error.name, error.code], ["ClosedError", 1000]);
  assert.deepEqual(await peer.closed, { code: 1000, reason: "closed by the client" });
});

test("the server can call what is exposed", async (t) => {
  const { s, peer } = await open(t);
  s.expose("add", (a, b) => a + b);
  s.expose("later", async (text) => text.toUpperCase());
  s.expose("nothing", () => {});

  peer.send([0, 7, "add", [2, 3]]);
  assert.deepEqual(await peer.take(), [1, 7, null, 5]);
  peer.send([0, "x", "later", ["yes"]]);
  assert.deepEqual(await peer.take(), [1, "x", null, "YES"]);
  peer.send([0, 8, "nothing", []]);
  assert.deepEqual(await peer.take(), [1, 8, null, null]);
});

test("what is not exposed, or not any more, is no method", async (t) => {
  const { s, peer } = await open(t);
  const hide = s.expose("there", () => 1);
  hide();

  for (const name of ["there", "toString", "__proto__", "constructor"]) {
    peer.send([0, 1, name, []]);
    assert.deepEqual(await peer.take(), [1, 1, [-32601, `no method ${name}`, null], null]);
  }
});

test("an exposed function refuses with an RPCError, and any other error stays here", async (t) => {
  const { s, peer } = await open(t);
  const logged = t.mock.method(console, "error", () => {});
  s.expose("refuse", () => {
    throw new RPCError(4003, "not you", { who: "me" });
  });
  s.expose("break", () => {
    throw new Error("secret");
  });
  s.expose("unsendable", () => Symbol("no"));
  s.expose("unspeakable", () => {
    throw new RPCError(4003, "not you", Symbol("no"));
  });

  peer.send([0, 1, "refuse", []]);
  assert.deepEqual(await peer.take(), [1, 1, [4003, "not you", { who: "me" }], null]);
  peer.send([0, 2, "break", []]);
  assert.deepEqual(await peer.take(), [1, 2, [-32603, "internal error", null], null]);
  peer.send([0, 3, "unsendable", []]);
  assert.deepEqual(await peer.take(), [1, 3, [-32603, "internal error", null], null]);
  peer.send([0, 4, "unspeakable", []]);
  assert.deepEqual(await peer.take(), [1, 4, [-32603, "internal error", null], null]);
  assert.equal(logged.mock.callCount(), 3);
});

test("the server can cancel what it called", async (t) => {
  const { s, peer } = await open(t);
  s.expose("wait", function () {
    return new Promise((resolve, reject) => this.signal.addEventListener("abort", () => reject(this.signal.reason)));
  });

  peer.send([0, 1, "wait", []]);
  peer.send([3, 1]);
  peer.send([3, 99]);

  assert.deepEqual(await peer.take(), [1, 1, [4001, "cancelled", null], null]);
});

test("an answer to a connection that is gone goes nowhere", async (t) => {
  const { server, s, peer } = await open(t);
  const aborted = Promise.withResolvers();
  const answer = Promise.withResolvers();
  s.expose("wait", function () {
    this.signal.addEventListener("abort", () => {
      s.notify("nobody hears this");
      aborted.resolve(this.signal.reason);
    });
    return answer.promise;
  });

  peer.send([0, 1, "wait", []]);
  await settled(s, peer);
  peer.cut();
  const reason = await aborted.promise;
  const again = await server.accept();
  await s.ready();
  answer.resolve("too late");
  await answer.promise;
  s.notify("marker");

  assert.ok(reason instanceof ClosedError);
  assert.deepEqual(await again.take(), [2, "marker", []]);
});

test("events reach every listener of their name with their arguments", async (t) => {
  const { s, peer } = await open(t);
  const all = collect(s, "*");
  const both = [collect(s, "cart"), collect(s, "cart")];

  peer.send([2, "cart", [{ tea: 1 }, 2]]);
  peer.send([2, "other", []]);
  await settled(s, peer);

  assert.deepEqual(both, [[[{ tea: 1 }, 2]], [[{ tea: 1 }, 2]]]);
  assert.deepEqual(all.slice(0, 2), [
    ["cart", [{ tea: 1 }, 2], {}],
    ["other", [], {}],
  ]);
});

test("off and the function from on end it, once is once", async (t) => {
  const { s, peer } = await open(t);
  const seen = [];
  const listener = () => seen.push("off");
  s.on("x", listener);
  const off = s.on("x", () => seen.push("returned"));
  s.once("x", () => seen.push("once"));
  s.once("x", listener);

  peer.send([2, "x", []]);
  await settled(s, peer);
  s.on("x", listener);
  s.off("x", listener);
  off();
  peer.send([2, "x", []]);
  await settled(s, peer);

  assert.deepEqual(seen, ["off", "returned", "once"]);
});

test("a listener that throws is reported and harms nobody", async (t) => {
  const { s, peer } = await open(t);
  const logged = t.mock.method(console, "error", () => {});
  s.on("x", () => {
    throw new Error("mine");
  });
  const seen = collect(s, "x");

  peer.send([2, "x", [1]]);
  await settled(s, peer);

  assert.deepEqual(seen, [[1]]);
  assert.equal(logged.mock.calls[0].arguments[0].message, "mine");
  assert.equal(s.state, "connected");
});

test("an event of the server with a name of ours is seen by * alone", async (t) => {
  const { s, peer } = await open(t);
  const names = ["state", "connecting", "connected", "waiting", "closed", "error", "gap", "unsubscribed", "*"];
  const seen = names.slice(0, -1).map((name) => collect(s, name));
  const all = collect(s, "*");

  for (const name of names) peer.send([2, name, ["fake"]]);
  await settled(s, peer);

  assert.ok(seen.every((events) => events.length === 0));
  assert.deepEqual(
    all.slice(0, -1).map(([name]) => name),
    names,
  );
});

test("the session view is live", async (t) => {
  const { s, peer } = await open(t);
  const views = collect(s, "session");
  assert.equal(s.session, null);

  peer.send([2, "session", [{ user: "ann" }]]);
  await settled(s, peer);
  assert.deepEqual(s.session, { user: "ann" });
  peer.send([2, "session", [null]]);
  await settled(s, peer);

  assert.equal(s.session, null);
  assert.deepEqual(views, [[{ user: "ann" }], [null]]);
});

test("an event named session that came by a channel is not the session", async (t) => {
  const { s, peer } = await open(t);
  const views = collect(s, "session");

  peer.send([2, "session", [{ user: "eve" }], { channel: "lobby" }]);
  await settled(s, peer);

  assert.equal(s.session, null);
  assert.deepEqual(views, []);
});

test("the session ends with its socket", async (t) => {
  const { s, peer } = await open(t);
  const views = collect(s, "session");

  peer.send([2, "session", [{ user: "ann" }]]);
  peer.close(4401, "session ended");
  await next(s, "closed");

  assert.equal(s.session, null);
  assert.deepEqual(views.at(-1), [null]);
});

test("with the JSON subprotocol messages are text", async (t) => {
  const { s, peer } = await open(t, { protocols: "sstream.v1.json" });
  const events = collect(s, "x");

  const reply = s.call("add", [1, 2]);
  const { id, params } = await peer.takeCall("add");
  peer.reply(id, params[0] + params[1]);
  peer.sendFrame(1, Buffer.from('[2,"x",[{"a":{"__proto__":{"bad":1},"b":2}}]]'));
  await settled(s, peer);

  assert.equal(peer.protocol, "sstream.v1.json");
  assert.equal(await reply, 3);
  assert.deepEqual(events, [[{ a: { b: 2 } }]]);
});

test("bytes go through both ways", async (t) => {
  const { s, peer } = await open(t);

  const reply = s.call("echo", [new Uint8Array([0, 255]), new Uint16Array([1]).buffer]);
  const { id, params } = await peer.takeCall("echo");
  peer.reply(id, params);

  assert.deepEqual(await reply, [new Uint8Array([0, 255]), new Uint8Array([1, 0])]);
});

test("what is taken back is that function alone, not the one that took its place", async (t) => {
  const { s, peer } = await open(t);
  const takeBack = s.expose("who", () => "the first");
  s.expose("who", () => "the second");

  takeBack();
  peer.send([0, 1, "who", []]);

  assert.deepEqual(await peer.take(), [1, 1, null, "the second"]);
});

test("many calls that waited are sent one after another, so that no server is flooded, and in order", async (t) => {
  mockTime(t);
  const { server, s, peer } = await open(t);
  const lost = next(s, "waiting");
  peer.cut();
  await lost;
  for (let i = 0; i < 75; i++) s.call("work", [i], { queue: true }).catch(() => {});

  t.mock.timers.tick(0);
  const again = await server.accept();
  await s.ready();
  s.call("work", [75], { queue: true }).catch(() => {}); // those that wait are first
  s.call("now").catch(() => {});
  const taken = [];
  const takeUntilNow = async () => {
    for (;;) {
      const [, , name, params] = await again.take();
      if (name !== "work") return;
      taken.push(params[0]);
    }
  };

  await takeUntilNow();
  assert.equal(taken.length, 64);
  t.mock.timers.tick(100);
  s.notify("now");
  for (let i = 0; i < 6; i++) taken.push((await again.take())[3][0]);
  assert.deepEqual(await again.take(), [2, "now", []]);
  t.mock.timers.tick(100);
  for (let i = 0; i < 6; i++) taken.push((await again.take())[3][0]);
  assert.deepEqual(taken, Array.from({ length: 76 }, (_, i) => i));
});

test("a connection that is lost while calls still wait sends none twice by itself", async (t) => {
  mockTime(t);
  const { server, s, peer } = await open(t);
  let lost = next(s, "waiting");
  peer.cut();
  await lost;
  for (let i = 0; i < 65; i++) s.call("work", [i], { queue: true }).catch(() => {});
  t.mock.timers.tick(0);
  const again = await server.accept();
  await s.ready();
  lost = next(s, "waiting");
  again.cut();
  await lost;

  t.mock.timers.tick(0);
  const third = await server.accept();
  await s.ready();
  t.mock.timers.tick(100);
  const ids = [];
  for (let i = 0; i < 65; i++) ids.push((await third.take())[3][0]);
  s.notify("marker");

  assert.deepEqual(ids.toSorted((a, b) => a - b), Array.from({ length: 65 }, (_, i) => i));
  assert.deepEqual(await third.take(), [2, "marker", []]);
});
