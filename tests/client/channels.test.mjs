import assert from "node:assert/strict";
import { test } from "node:test";
import { ClosedError } from "../../sstream/client/sstream.js";
import { collect, failure, mockTime, next, open, settled } from "./setup.mjs";

const EPOCH = "abc";

/** An event of the channel "lobby", numbered where there is an offset. */
const event = (name, args, offset, epoch = EPOCH) => [
  2,
  name,
  args,
  offset === undefined ? { channel: "lobby" } : { channel: "lobby", offset, epoch },
];

/** A channel "lobby" with history, subscribed at offset 5. */
async function subscribed(t, options) {
  const { server, s, peer } = await open(t, options);
  const lobby = s.channel("lobby");
  const done = lobby.subscribe();
  const { id } = await peer.takeCall("sstream.subscribe");
  peer.reply(id, { offset: 5, epoch: EPOCH, recovered: true, missed: [] });
  await done;
  return { server, s, peer, lobby };
}

test("there is one channel of a name", async (t) => {
  const { s } = await open(t);

  assert.equal(s.channel("lobby"), s.channel("lobby"));
  assert.notEqual(s.channel("lobby"), s.channel("kitchen"));
  assert.equal(s.channel("lobby").name, "lobby");
});

test("an event of a channel reaches the listeners of the channel and of the socket", async (t) => {
  const { s, peer } = await open(t);
  const lobby = collect(s.channel("lobby"), "said");
  const kitchen = collect(s.channel("kitchen"), "said");
  const everything = collect(s.channel("lobby"), "*");
  const anywhere = collect(s, "said");

  peer.send(event("said", ["hello", 1]));
  await settled(s, peer);

  assert.deepEqual(lobby, [["hello", 1]]);
  assert.deepEqual(kitchen, []);
  assert.deepEqual(everything, [["said", ["hello", 1], { channel: "lobby" }]]);
  assert.deepEqual(anywhere, [["hello", 1]]);
});

test("subscribe without history", async (t) => {
  const { s, peer } = await open(t);

  const done = s.channel("lobby").subscribe();
  const { id, params } = await peer.takeCall("sstream.subscribe");
  peer.reply(id, {});

  assert.deepEqual(params, ["lobby"]);
  assert.deepEqual(await done, { offset: undefined, epoch: undefined, recovered: undefined });
  assert.equal(s.channel("lobby").position, null);
});

test("subscribe since a position delivers what was missed, then live events", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");
  const seen = collect(lobby, "said");

  const done = lobby.subscribe({ since: { offset: 3, epoch: EPOCH } });
  const { id, params } = await peer.takeCall("sstream.subscribe");
  peer.send(event("said", [5], 5)); // live, and in what was missed as well
  peer.send(event("said", [6], 6)); // live, and new
  const missed = [event("said", [4], 4), event("said", [5], 5)];
  peer.reply(id, { offset: 5, epoch: EPOCH, recovered: true, missed });
  const news = await done;
  await settled(s, peer);

  assert.deepEqual(params, ["lobby", { offset: 3, epoch: EPOCH }]);
  assert.deepEqual(news, { offset: 5, epoch: EPOCH, recovered: true });
  assert.deepEqual(seen, [[4], [5], [6]]);
  assert.deepEqual(lobby.position, { offset: 6, epoch: EPOCH });
});

test("what was missed may come as events before the reply, too", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");
  const seen = collect(lobby, "said");

  const done = lobby.subscribe({ since: { offset: 3, epoch: EPOCH } });
  const { id } = await peer.takeCall("sstream.subscribe");
  peer.send(event("said", [4], 4));
  peer.send(event("said", [5], 5));
  peer.send(event("said", [6], 6));
  peer.reply(id, { offset: 5, epoch: EPOCH, recovered: true, missed: [] });
  await done;
  assert.deepEqual(seen, [[4], [5], [6]]);
  peer.send(event("said", [7], 7));
  await settled(s, peer);

  assert.deepEqual(seen, [[4], [5], [6], [7]]);
});

test("live events that come before the first reply are delivered", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");
  const seen = collect(lobby, "said");

  const done = lobby.subscribe();
  const { id } = await peer.takeCall("sstream.subscribe");
  peer.send(event("said", [5], 5));
  peer.reply(id, { offset: 5, epoch: EPOCH, recovered: true, missed: [] });
  await done;

  assert.deepEqual(seen, [[5]]);
  assert.deepEqual(lobby.position, { offset: 5, epoch: EPOCH });
});

test("a refused subscription rejects and is not tried again", async (t) => {
  const { server, s, peer } = await open(t);
  const lobby = s.channel("lobby");
  const ended = collect(lobby, "unsubscribed");

  const error = failure(lobby.subscribe());
  const { id } = await peer.takeCall("sstream.subscribe");
  peer.send([1, id, [4003, "not here", null], null]);
  assert.equal((await error).code, 4003);
  peer.cut();
  const again = await server.accept();
  await s.ready();
  s.notify("marker");

  assert.deepEqual(await again.take(), [2, "marker", []]);
  assert.equal(ended[0][0].code, 4003);
});

test("after a reconnect the channel is subscribed again and what was missed is delivered once", async (t) => {
  const { server, s, peer, lobby } = await subscribed(t);
  const seen = collect(lobby, "said");
  const gaps = collect(s, "gap");

  peer.send(event("said", [6], 6));
  await settled(s, peer);
  peer.cut();
  const again = await server.accept();
  const { id, params } = await again.takeCall("sstream.subscribe");
  again.reply(id, { offset: 8, epoch: EPOCH, recovered: true, missed: [event("said", [7], 7), event("said", [8], 8)] });
  again.send(event("said", [8], 8));
  again.send(event("said", [9], 9));
  await settled(s, again);

  assert.deepEqual(params, ["lobby", { offset: 6, epoch: EPOCH }]);
  assert.deepEqual(seen, [[6], [7], [8], [9]]);
  assert.deepEqual(gaps, []);
});

test("a channel without history is subscribed again too", async (t) => {
  const { server, s, peer } = await open(t);
  const done = s.channel("lobby").subscribe();
  peer.reply((await peer.takeCall("sstream.subscribe")).id, {});
  await done;

  peer.cut();
  const again = await server.accept();

  assert.deepEqual((await again.takeCall("sstream.subscribe")).params, ["lobby"]);
});

test("what cannot be recovered is told as a gap, and it goes on from there", async (t) => {
  const { server, s, peer, lobby } = await subscribed(t);
  const gaps = [collect(s, "gap"), collect(lobby, "gap")];
  const seen = collect(lobby, "said");

  peer.cut();
  const again = await server.accept();
  const { id } = await again.takeCall("sstream.subscribe");
  again.reply(id, { offset: 2, epoch: "new", recovered: false, missed: [] });
  again.send(event("said", ["new"], 3, "new"));
  await settled(s, again);

  assert.deepEqual(gaps, [[["lobby"]], [[]]]);
  assert.deepEqual(seen, [["new"]]);
  assert.deepEqual(lobby.position, { offset: 3, epoch: "new" });
});

test("the server's word of a gap is told: in a channel with history, without one, and anywhere", async (t) => {
  const { s, peer, lobby } = await subscribed(t);
  const gaps = collect(s, "gap");
  const seen = collect(s, "*");

  peer.send([2, "sstream:gap", ["lobby"], { channel: "lobby", offset: 9, epoch: EPOCH }]);
  peer.send(event("said", [10], 10));
  peer.send([2, "sstream:gap", ["kitchen"]]);
  peer.send([2, "sstream:gap", [null]]);
  await settled(s, peer);

  assert.deepEqual(gaps, [["lobby"], ["kitchen"], [null]]);
  assert.deepEqual(lobby.position, { offset: 10, epoch: EPOCH });
  assert.deepEqual(
    seen.map(([name]) => name),
    ["said", "settled"],
  );
});

test("a hole in the numbers is filled by asking for what is missing", async (t) => {
  const { s, peer, lobby } = await subscribed(t);
  const seen = collect(lobby, "said");

  peer.send(event("said", [6], 6));
  peer.send(event("said", [9], 9));
  const { id, params } = await peer.takeCall("sstream.subscribe");
  peer.send(event("said", [10], 10));
  const missed = [7, 8, 9].map((offset) => event("said", [offset], offset));
  peer.reply(id, { offset: 9, epoch: EPOCH, recovered: true, missed });
  await settled(s, peer);

  assert.deepEqual(params, ["lobby", { offset: 6, epoch: EPOCH }]);
  assert.deepEqual(seen, [[6], [7], [8], [9], [10]]);
});

test("an event that was seen is not delivered again", async (t) => {
  const { s, peer, lobby } = await subscribed(t);
  const seen = collect(lobby, "said");

  for (const offset of [6, 6, 5, 7]) peer.send(event("said", [offset], offset));
  await settled(s, peer);

  assert.deepEqual(seen, [[6], [7]]);
});

test("a subscription whose connection is lost before the reply is done by the next one", async (t) => {
  const { server, s, peer } = await open(t);

  const done = s.channel("lobby").subscribe();
  await peer.takeCall("sstream.subscribe");
  peer.cut();
  const again = await server.accept();
  again.reply((await again.takeCall("sstream.subscribe")).id, {});

  await done;
});

test("a subscription made while waiting is done when connected", async (t) => {
  const { server, s, peer } = await open(t);
  peer.cut();
  await next(s, "waiting");

  const done = s.channel("lobby").subscribe();
  const again = await server.accept();
  again.reply((await again.takeCall("sstream.subscribe")).id, {});

  await done;
});

test("a server that is unavailable at a reconnect is asked again; the subscription stays", async (t) => {
  mockTime(t);
  const { server, s, peer, lobby } = await subscribed(t);
  const ended = collect(lobby, "unsubscribed");

  const lost = next(s, "waiting");
  peer.cut();
  await lost;
  t.mock.timers.tick(0);
  const again = await server.accept();
  const { id } = await again.takeCall("sstream.subscribe");
  again.send([1, id, [4050, "unavailable", null], null]);
  await settled(s, again);
  t.mock.timers.tick(5000);
  const { params } = await again.takeCall("sstream.subscribe");

  assert.deepEqual(params, ["lobby", { offset: 5, epoch: EPOCH }]);
  assert.deepEqual(ended, []);
});

test("a server that refuses at a reconnect ends the subscription and says so", async (t) => {
  const { server, s, peer, lobby } = await subscribed(t);

  const ended = next(lobby, "unsubscribed");
  peer.cut();
  const again = await server.accept();
  const { id } = await again.takeCall("sstream.subscribe");
  again.send([1, id, [4003, "not any more", null], null]);

  assert.equal((await ended)[0].code, 4003);
});

test("unsubscribe tells the server and is not undone by a reconnect", async (t) => {
  const { server, s, peer, lobby } = await subscribed(t);
  const ended = collect(lobby, "unsubscribed");

  const done = lobby.unsubscribe();
  const { id, params } = await peer.takeCall("sstream.unsubscribe");
  peer.reply(id);
  await done;
  peer.cut();
  const again = await server.accept();
  await s.ready();
  s.notify("marker");

  assert.deepEqual(params, ["lobby"]);
  assert.deepEqual(await again.take(), [2, "marker", []]);
  assert.deepEqual(ended, []);
});

test("subscribe and unsubscribe take turns", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");

  const first = failure(lobby.subscribe());
  const { id } = await peer.takeCall("sstream.subscribe");
  const second = lobby.unsubscribe();
  const third = lobby.subscribe();
  s.notify("marker");
  assert.deepEqual(await peer.take(), [2, "marker", []]);
  peer.reply(id, {});
  peer.reply((await peer.takeCall("sstream.subscribe")).id, {});

  assert.equal((await first).code, 4001);
  await second;
  await third;
});

test("publish and presence are calls", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");

  const published = lobby.publish("said", "hello", 1);
  const first = await peer.takeCall("sstream.publish");
  peer.reply(first.id);
  await published;
  const present = lobby.presence();
  const second = await peer.takeCall("sstream.presence");
  peer.reply(second.id, [{ user: "ann" }]);

  assert.deepEqual(first.params, ["lobby", "said", "hello", 1]);
  assert.deepEqual(second.params, ["lobby"]);
  assert.deepEqual(await present, [{ user: "ann" }]);
});

test("a channel is iterated from what was missed until it is unsubscribed", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");

  const done = lobby.subscribe({ since: { offset: 3, epoch: EPOCH } });
  const seen = (async () => {
    const events = [];
    for await (const item of lobby) events.push(item);
    return events;
  })();
  const { id } = await peer.takeCall("sstream.subscribe");
  peer.reply(id, { offset: 4, epoch: EPOCH, recovered: true, missed: [event("said", [4], 4)] });
  await done;
  peer.send(event("left", [], 5));
  await settled(s, peer);
  const ended = lobby.unsubscribe();
  peer.reply((await peer.takeCall("sstream.unsubscribe")).id);
  await ended;

  assert.deepEqual(await seen, [
    { event: "said", args: [4], channel: "lobby", offset: 4, epoch: EPOCH },
    { event: "left", args: [], channel: "lobby", offset: 5, epoch: EPOCH },
  ]);
});

test("an iterator that is left gets nothing more, and others go on", async (t) => {
  const { s, peer, lobby } = await subscribed(t, { maxQueue: 2 });
  const one = lobby[Symbol.asyncIterator]();
  const two = lobby[Symbol.asyncIterator]();

  const firsts = [one.next(), two.next()];
  peer.send(event("said", [6], 6));
  await Promise.all(firsts);
  await one.return();
  for (const offset of [7, 8]) peer.send(event("said", [offset], offset));
  await settled(s, peer);

  assert.equal((await two.next()).value.offset, 7);
  assert.equal((await two.next()).value.offset, 8);
});

test("an iterator that does not keep up ends with an error instead of growing", async (t) => {
  const { s, peer, lobby } = await subscribed(t, { maxQueue: 2 });
  const events = lobby[Symbol.asyncIterator]();

  const first = events.next();
  for (const offset of [6, 7, 8, 9]) peer.send(event("said", [offset], offset));
  await first;
  await settled(s, peer);
  const error = failure((async () => {
    for (;;) await events.next();
  })());

  assert.equal((await error).code, 4029);
});

test("the end of the socket ends its subscriptions, iterators too", async (t) => {
  const { s, peer, lobby } = await subscribed(t);
  const ended = collect(lobby, "unsubscribed");
  const iteration = failure(lobby[Symbol.asyncIterator]().next());
  const pending = failure(s.channel("kitchen").subscribe());
  await peer.takeCall("sstream.subscribe");

  const closed = next(s, "closed");
  peer.close(4401, "session ended");
  await closed;
  const errors = [await iteration, await pending, await failure(lobby.subscribe())];

  for (const error of errors) {
    assert.ok(error instanceof ClosedError);
    assert.equal(error.code, 4401);
  }
  assert.equal(ended.length, 1);
});

test("an event of ours that came by a channel is seen by * alone", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");
  const fakes = [collect(lobby, "unsubscribed"), collect(lobby, "gap"), collect(s, "closed"), collect(s, "session")];
  const all = collect(lobby, "*");

  for (const name of ["unsubscribed", "gap", "closed", "session"]) peer.send(event(name, ["fake"]));
  await settled(s, peer);

  assert.deepEqual(fakes, [[], [], [], []]);
  assert.equal(all.length, 4);
});

test("what comes while it is being unsubscribed is no place to go on from", async (t) => {
  const { s, peer, lobby } = await subscribed(t);

  const ended = lobby.unsubscribe();
  const { id } = await peer.takeCall("sstream.unsubscribe");
  peer.send(event("said", [6], 6));
  peer.reply(id);
  await ended;
  const again = lobby.subscribe();
  const { id: second, params } = await peer.takeCall("sstream.subscribe");
  peer.reply(second, { offset: 9, epoch: EPOCH, recovered: true, missed: [] });
  await again;

  assert.deepEqual(params, ["lobby"]);
  assert.equal(s.state, "connected");
});

test("a reply to a subscription that is none ends it with an error", async (t) => {
  const { s, peer } = await open(t);
  const lobby = s.channel("lobby");
  const ended = collect(lobby, "unsubscribed");
  const seen = collect(lobby, "said");

  for (const odd of [null, { missed: [[2, "said"]] }]) {
    const error = failure(lobby.subscribe());
    peer.reply((await peer.takeCall("sstream.subscribe")).id, odd);
    assert.equal((await error).name, "TypeError");
  }
  peer.send(event("said", ["live"]));
  await settled(s, peer);

  assert.equal(ended.length, 2);
  assert.deepEqual(seen, [["live"]]); // it is not held back for ever
});
