import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";
import { ClosedError, connect } from "../../sstream/client/sstream.js";
import { collect, dial, failure, mockTime, next, open, serve, settled } from "./setup.mjs";

const refusal = (status) => `HTTP/1.1 ${status} No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno`;

/** A page that can wake up, in place of `document` and the window's events. */
function fakePage(t) {
  const window = new EventTarget();
  const document = new EventTarget();
  document.hidden = false;
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.document = document;
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.document;
  });
  return { window, document };
}

test("the states of a connection are told in order, by name and as state", async (t) => {
  const server = await serve(t);
  const s = dial(t, server.url);
  const states = collect(s, "state");
  const named = ["connecting", "connected", "waiting", "closed"].map((name) => collect(s, name));
  assert.deepEqual(s.status, { state: "connecting", code: null, reason: "", retryIn: null });

  await server.accept();
  await s.ready();
  server.dropAll();
  const peer = await server.accept();
  await s.ready();
  peer.close(4401, "session ended");
  await next(s, "closed");

  assert.deepEqual(
    states.map(([status]) => status),
    [
      { state: "connected", code: null, reason: "", retryIn: null },
      { state: "waiting", code: 1006, reason: "connection lost", retryIn: 0 },
      { state: "connecting", code: null, reason: "", retryIn: null },
      { state: "connected", code: null, reason: "", retryIn: null },
      { state: "closed", code: 4401, reason: "session ended", retryIn: null },
    ],
  );
  assert.deepEqual(named.flat(), [states[2], states[0], states[3], states[1], states[4]]);
  assert.equal(s.status, states[4][0]);
  assert.ok(Object.isFrozen(s.status));
});

test("the wait doubles from 0.1 to 30 seconds, and full jitter takes any part of it", async (t) => {
  const server = await serve(t);
  server.refusals.push(...Array(12).fill(refusal(503)));
  // A thousandth of the wait, so that the test is quick.
  const s = dial(t, server.url, { backoff: { random: () => 0.001 } });
  const waits = collect(s, "waiting");

  await s.ready();

  const ceilings = waits.map(([{ retryIn }]) => Math.round(retryIn * 1e6) / 1e3);
  assert.deepEqual(ceilings, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]);
});

test("the bounds of the wait can be set, and Math.random is asked", async (t) => {
  const server = await serve(t);
  server.refusals.push(...Array(4).fill(refusal(503)));
  const values = [0.5, 0, 0.999, 0.25];
  t.mock.method(Math, "random", () => values.shift() ?? 0);
  const s = connect(server.url, { backoff: { min: 0.002, max: 0.008 } });
  t.after(() => s.close());
  const waits = collect(s, "waiting");

  await s.ready();

  assert.deepEqual(
    waits.map(([{ retryIn }]) => retryIn),
    [0.5 * 0.002, 0, 0.999 * 0.008, 0.25 * 0.008],
  );
});

test("the wait starts anew after a connection that lasted, not after one that did not", async (t) => {
  mockTime(t);
  const { server, s, peer } = await open(t, { backoff: { random: () => 1 } });
  const lose = async (peer) => {
    const lost = next(s, "waiting");
    peer.cut();
    const [{ retryIn }] = await lost;
    t.mock.timers.tick(retryIn * 1000);
    const again = await server.accept();
    await s.ready();
    return [again, retryIn];
  };

  const [second, firstWait] = await lose(peer);
  t.mock.timers.tick(9999);
  const [third, secondWait] = await lose(second);
  t.mock.timers.tick(10_000);
  const [, thirdWait] = await lose(third);

  assert.deepEqual([firstWait, secondWait, thirdWait], [0.1, 0.2, 0.1]);
});

for (const status of ["401 Unauthorized", "403 Forbidden", "503 Service Unavailable", "200 OK"])
  test(`a handshake that is answered by ${status} is tried again`, async (t) => {
    const server = await serve(t);
    server.refusals.push(...Array(3).fill(refusal(status)));
    const s = dial(t, server.url);
    const waits = collect(s, "waiting");

    await s.ready();

    assert.equal(server.handshakes, 4);
    for (const [{ code, reason }] of waits) {
      assert.equal(code, 1006);
      assert.notEqual(reason, "");
    }
  });

const upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";

for (const [what, answer] of [
  ["garbage", "\x00\x01\x02 this is no HTTP \r\n\r\n"],
  ["nothing", ""],
  ["half a reply", "HTTP/1.1 101 Switching Prot"],
  ["a wrong key", `${upgrade}Sec-WebSocket-Accept: no\r\n\r\n`],
])
  test(`a handshake that is answered by ${what} is tried again`, async (t) => {
    const server = await serve(t);
    server.refusals.push(answer);
    const s = dial(t, server.url);

    await s.ready();

    assert.equal(server.handshakes, 2);
  });

test("a server that is not there is looked for until it is", async (t) => {
  const place = createServer();
  place.listen(0, "127.0.0.1");
  await once(place, "listening");
  const { port } = place.address();
  await new Promise((resolve) => place.close(resolve));
  const s = dial(t, `ws://127.0.0.1:${port}/ws`);
  await next(s, "waiting");
  await next(s, "waiting");

  const server = await serve(t, port);
  await server.accept();
  await s.ready();

  assert.equal(s.state, "connected");
});

test("a handshake that takes more than 10 seconds is given up and tried again", async (t) => {
  mockTime(t);
  const server = await serve(t);
  server.refusals.push("silence");
  const s = dial(t, server.url);
  const waits = collect(s, "waiting");
  await server.refused();

  t.mock.timers.tick(9999);
  assert.deepEqual(waits, []);
  t.mock.timers.tick(1);
  await s.ready();

  assert.deepEqual(waits, [[{ state: "waiting", code: 1006, reason: "the handshake took too long", retryIn: 0 }]]);
});

for (const code of [4400, 4401, 4403, 4404, 4499])
  test(`close code ${code} is the end`, async (t) => {
    const { server, s, peer } = await open(t);
    const waits = collect(s, "waiting");
    const ready = next(s, "closed").then(() => failure(s.ready()));

    peer.close(code, "because");
    const error = await ready;

    assert.deepEqual(s.status, { state: "closed", code, reason: "because", retryIn: null });
    assert.ok(error instanceof ClosedError);
    assert.deepEqual([error.code, error.message], [code, "because"]);
    assert.deepEqual(waits, []);
    assert.equal(server.handshakes, 1);
  });

for (const code of [1000, 1001, 1011, 1012, 1013, 3000, 4000, 4408, 4429, 4500])
  test(`after close code ${code} the socket comes back`, async (t) => {
    const { server, s, peer } = await open(t);
    const waits = collect(s, "waiting");

    peer.close(code, "because");
    await next(s, "waiting");
    await server.accept();
    await s.ready();

    assert.deepEqual(
      waits.map(([{ code, reason }]) => [code, reason]),
      [[code, "because"]],
    );
  });

test("after the end it can be opened again", async (t) => {
  const { server, s, peer } = await open(t);
  peer.close(4401, "session ended");
  await next(s, "closed");

  s.open();
  const again = await server.accept();
  await s.ready();
  const reply = s.call("add");
  again.reply((await again.takeCall("add")).id, 1);

  assert.equal(await reply, 1);
});

test("a listener may close the socket, or open it again, at every turn", async (t) => {
  const { server, s, peer } = await open(t, { backoff: { random: () => 1, min: 1000, max: 1000 } });
  const lobby = s.channel("lobby");
  const early = failure(lobby.subscribe());
  await peer.takeCall("sstream.subscribe");
  let late;

  s.once("waiting", () => s.open());
  s.once("connected", () => s.close());
  s.once("closed", () => {
    s.open();
    late = lobby.subscribe();
  });
  peer.cut();
  await server.accept();
  const third = await server.accept();
  third.reply((await third.takeCall("sstream.subscribe")).id, {});

  assert.deepEqual([(await early).name, (await early).code], ["ClosedError", 1000]);
  assert.equal((await late).offset, undefined);
  assert.equal(s.state, "connected");
});

test("open does not wait any longer, and does nothing to a connection", async (t) => {
  const { server, s, peer } = await open(t, { backoff: { random: () => 1, min: 1000, max: 1000 } });
  peer.cut();
  await next(s, "waiting");

  s.open();
  s.open();
  await server.accept();
  await s.ready();
  s.open();
  await s.ready();

  assert.equal(server.handshakes, 2);
});

test("close ends it, also twice, also while waiting, and nothing comes after", async (t) => {
  const { server, s, peer } = await open(t);
  const states = collect(s, "state");
  peer.cut();
  await next(s, "waiting");

  s.close(4000, "enough");
  s.close();

  assert.deepEqual(s.status, { state: "closed", code: 4000, reason: "enough", retryIn: null });
  assert.deepEqual(
    states.map(([{ state }]) => state),
    ["waiting", "closed"],
  );
  assert.equal(server.handshakes, 1);
});

test("await using closes it", async (t) => {
  const server = await serve(t);
  const s = connect(server.url);
  const peer = await server.accept();
  await s.ready();

  await s[Symbol.asyncDispose]();

  assert.equal(s.state, "closed");
  assert.equal((await peer.closed).code, 1000);
});

test("ready can be given up", async (t) => {
  const server = await serve(t);
  server.refusals.push("silence");
  const s = dial(t, server.url);
  const controller = new AbortController();

  const error = failure(s.ready({ signal: controller.signal }));
  controller.abort();

  assert.equal((await error).name, "AbortError");
  assert.equal((await failure(s.ready({ signal: AbortSignal.abort() }))).name, "AbortError");
});

test("a socket that waits tries at once when the network comes back, or the page is shown", async (t) => {
  const { window, document } = fakePage(t);
  const { server, s, peer } = await open(t, { backoff: { random: () => 1, min: 1000, max: 1000 } });
  peer.cut();
  await next(s, "waiting");

  window.dispatchEvent(new Event("online"));
  const second = await server.accept();
  await s.ready();
  second.cut();
  await next(s, "waiting");
  document.hidden = true;
  document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(s.state, "waiting");
  document.hidden = false;
  document.dispatchEvent(new Event("visibilitychange"));
  await server.accept();
  await s.ready();

  assert.equal(server.handshakes, 3);
});

test("a closed socket does not listen to the page any more", async (t) => {
  const { window } = fakePage(t);
  const { server, s } = await open(t);

  s.close();
  window.dispatchEvent(new Event("online"));

  assert.equal(s.state, "closed");
  assert.equal(server.handshakes, 1);
});

test("a page that wakes up asks whether the server is there, and an error is an answer", async (t) => {
  const { window } = fakePage(t);
  mockTime(t);
  const { s, peer } = await open(t);

  window.dispatchEvent(new Event("online"));
  const { id } = await peer.takeCall("sstream.ping");
  peer.send([1, id, [-32601, "method not found", null], null]);
  await settled(s, peer);
  t.mock.timers.tick(10_000);

  assert.equal(s.state, "connected");
});

test("a server that says nothing for 30 seconds is asked, and given up after 10 more", async (t) => {
  mockTime(t);
  const { server, s, peer } = await open(t);

  t.mock.timers.tick(29_999);
  s.notify("marker");
  t.mock.timers.tick(1);
  assert.deepEqual(await peer.take(), [2, "marker", []]);
  await peer.takeCall("sstream.ping");
  const lost = next(s, "waiting");
  t.mock.timers.tick(10_000);
  const [{ code, reason }] = await lost;
  t.mock.timers.tick(0);
  await server.accept();
  await s.ready();

  assert.deepEqual([code, reason], [1006, "no sign of life"]);
});

test("any word of the server is a sign of life", async (t) => {
  mockTime(t);
  const { s, peer } = await open(t);

  t.mock.timers.tick(30_000);
  await peer.takeCall("sstream.ping");
  await settled(s, peer);
  t.mock.timers.tick(10_000);
  await settled(s, peer);

  assert.equal(s.state, "connected");
});

for (const [what, opcode, bytes] of [
  ["bytes that are no MessagePack", 2, [0xc1]],
  ["half a message", 2, [0x94, 0x02]],
  ["more than a message", 2, [0x90, 0x90]],
  ["a message that is no array", 2, [0x80]],
  ["an event whose arguments are no array", 2, [0x93, 0x02, 0xa1, 0x78, 0x05]],
  ["an error that is none", 2, [0x94, 0x01, 0x01, 0x05, 0xc0]],
  ["text that is no JSON", 1, [0x7b]],
])
  test(`a server that sends ${what} is left, told of, and tried again`, async (t) => {
    const { server, s, peer } = await open(t);
    const errors = collect(s, "error");
    const call = failure(s.call("pending"));
    await peer.takeCall("pending");

    peer.sendFrame(opcode, Buffer.from(bytes));
    const error = await call;
    await server.accept();
    await s.ready();

    assert.deepEqual([error.name, error.code], ["ClosedError", 1007]);
    assert.equal(errors.length, 1);
  });

test("an error that nobody listens for is reported", async (t) => {
  const { server, s, peer } = await open(t);
  const logged = t.mock.method(console, "error", () => {});

  peer.sendFrame(2, Buffer.from([0xc1]));
  await next(s, "waiting");
  await server.accept();

  assert.equal(logged.mock.callCount(), 1);
});

test("messages of a newer server and replies that nobody waits for are passed over", async (t) => {
  const { s, peer } = await open(t);

  const late = [1, 77, null, "late"];
  const lateError = [1, 78, [-32603, "late", null], null];
  for (const message of [[99, 1], [], late, lateError, [4, 77, "late"], [3, 77]]) peer.send(message);
  await settled(s, peer);

  assert.equal(s.state, "connected");
});

test("a URL is taken relative to the page, and http as ws", (t) => {
  globalThis.location = { href: "https://tea.example/shop/page?x#y" };
  t.after(() => delete globalThis.location);
  const urls = [];
  class Recorder {
    constructor(url, protocols) {
      urls.push([url, protocols]);
    }
    close() {}
  }

  const given = ["/ws", "live", "http://b.example/ws#x", "wss://b.example/ws?a=http", new URL("https://c.example/ws")];
  for (const url of given) connect(url, { WebSocket: Recorder }).close();

  assert.deepEqual(
    urls.map(([url]) => url),
    [
      "wss://tea.example/ws",
      "wss://tea.example/shop/live",
      "ws://b.example/ws",
      "wss://b.example/ws?a=http",
      "wss://c.example/ws",
    ],
  );
  assert.deepEqual(urls[0][1], ["sstream.v1.msgpack"]);
});

test("without a page a relative URL is an error at once", () => {
  assert.throws(() => connect("/ws"), TypeError);
});

test("who closes the socket because of an error has closed it", async (t) => {
  const { server, s, peer } = await open(t);
  const closed = next(s, "closed");
  s.on("error", () => s.close());

  peer.sendFrame(2, Buffer.from([0xc1]));

  assert.equal((await closed)[0].code, 1000);
  await settledTimers();
  assert.equal(s.state, "closed");
  assert.equal(server.handshakes, 1);
});

/** After every timer that is due now. */
const settledTimers = () => new Promise((resolve) => setTimeout(resolve, 0));
