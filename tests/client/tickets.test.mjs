import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, failure, mockTime, next, open, settled } from "./setup.mjs";

test("a ticket is traded at the origin of the socket", async (t) => {
  const { server, s, peer } = await open(t);
  const all = collect(s, "*");

  peer.send([2, "sstream:ticket", ["once-only"]]);
  const { request, body, response } = await server.post();
  response.writeHead(204).end();
  await settled(s, peer);

  assert.equal(request.method, "POST");
  assert.equal(request.url, "/_sstream/session");
  assert.equal(request.headers["content-type"], "application/json");
  assert.deepEqual(JSON.parse(body), { ticket: "once-only" });
  assert.deepEqual(all, [["settled", [], {}]]);
});

test("the request takes the cookie along, and goes through when the page is left", async (t) => {
  const requests = [];
  const { s, peer } = await open(t, {
    fetch(url, request) {
      assert.equal(this, undefined); // what a browser's fetch insists on
      requests.push([url.href, request]);
      return Promise.resolve({ ok: true, status: 204 });
    },
  });

  peer.send([2, "sstream:ticket", ["t"]]);
  await settled(s, peer);

  const [[url, { method, credentials, keepalive }]] = requests;
  assert.equal(url, s.url.replace("ws:", "http:").replace("/ws", "/_sstream/session"));
  assert.deepEqual({ method, credentials, keepalive }, { method: "POST", credentials: "same-origin", keepalive: true });
});

test("a ticket that came by a channel is not traded", async (t) => {
  const fetch = t.mock.fn();
  const { s, peer } = await open(t, { fetch });

  peer.send([2, "sstream:ticket", ["fake"], { channel: "lobby" }]);
  await settled(s, peer);

  assert.equal(fetch.mock.callCount(), 0);
});

test("a ticket that is refused is an error, told once, and the socket lives", async (t) => {
  const { server, s, peer } = await open(t);
  const error = next(s, "error");

  peer.send([2, "sstream:ticket", ["old"]]);
  (await server.post()).response.writeHead(403).end();

  assert.match((await error)[0].message, /403/);
  assert.equal(s.state, "connected");
});

test("a server that is busy, or away, is asked again, five times at most", async (t) => {
  mockTime(t);
  const answers = [{ ok: false, status: 503 }, new TypeError("fetch failed"), { ok: true, status: 204 }];
  const fetch = t.mock.fn(async () => {
    const answer = answers.shift() ?? { ok: false, status: 500 };
    if (answer instanceof Error) throw answer;
    return answer;
  });
  const { s, peer } = await open(t, { fetch });
  const pass = async () => {
    await settled(s, peer);
    t.mock.timers.tick(32_000);
  };

  peer.send([2, "sstream:ticket", ["first"]]);
  for (let i = 0; i < 4; i++) await pass();
  assert.equal(fetch.mock.callCount(), 3);

  const error = next(s, "error");
  peer.send([2, "sstream:ticket", ["second"]]);
  for (let i = 0; i < 6; i++) await pass();
  assert.match((await error)[0].message, /500/);
  assert.equal(fetch.mock.callCount(), 3 + 5);
});

test("a ticket that is none, or is for nowhere, does not keep the next one from being traded", async (t) => {
  const { server, s, peer } = await open(t);
  const errors = collect(s, "error");

  peer.send([2, "sstream:ticket", ["t", "http://"]]);
  peer.send([2, "sstream:ticket", 5]);
  peer.send([2, "sstream:ticket", ["good"]]);
  const { body, response } = await server.post();
  response.writeHead(204).end();

  assert.deepEqual(JSON.parse(body), { ticket: "good" });
  assert.deepEqual(errors.map(([{ name }]) => name), ["TypeError", "TypeError"]);
});

test("a trade that is never answered is given up", async (t) => {
  const timeout = t.mock.method(AbortSignal, "timeout", () => AbortSignal.abort(new Error("no answer")));
  mockTime(t);
  const fetch = t.mock.fn((url, { signal }) => new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
  }));
  const { s, peer } = await open(t, { fetch });
  const error = next(s, "error");

  peer.send([2, "sstream:ticket", ["lost"]]);
  for (let i = 0; i < 6; i++) {
    await settled(s, peer);
    t.mock.timers.tick(32_000);
  }

  assert.equal((await error)[0].message, "no answer");
  assert.deepEqual(timeout.mock.calls.map(({ arguments: [ms] }) => ms), Array(5).fill(10_000));
});
