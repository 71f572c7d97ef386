import assert from "node:assert/strict";
import { test } from "node:test";
import { ClosedError, RPCError, TimeoutError } from "../../sstream/client/sstream.js";
import { failure, next, open, settled } from "./setup.mjs";

/** All items of a stream. */
async function drain(stream, items = []) {
  for await (const item of stream) items.push(item);
  return items;
}

test("a stream gives the items in order and ends with the reply", async (t) => {
  const { s, peer } = await open(t);

  const items = drain(s.stream("count", [3]));
  const { id, params } = await peer.takeCall("count");
  for (const item of [0, 1, 2]) peer.send([4, id, item]);
  peer.reply(id);

  assert.deepEqual(params, [3]);
  assert.deepEqual(await items, [0, 1, 2]);
});

test("nothing is sent before the iteration begins", async (t) => {
  const { s, peer } = await open(t);

  s.stream("count", [3]);
  s.notify("marker");

  assert.deepEqual(await peer.take(), [2, "marker", []]);
});

test("credit is given with the call, and again by halves as items are taken", async (t) => {
  const { s, peer } = await open(t);
  const stream = s.stream("count", [], { credit: 4 });

  const first = stream.next();
  const { id } = await peer.takeCall("count");
  assert.deepEqual(await peer.take(), [5, id, 4]);
  for (const item of [0, 1, 2, 3]) peer.send([4, id, item]);
  await settled(s, peer);
  s.notify("nothing taken yet");
  assert.deepEqual(await peer.take(), [2, "nothing taken yet", []]);
  await first;
  await stream.next();
  await stream.next();

  assert.deepEqual(await peer.take(), [5, id, 2]);
  s.notify("marker");
  assert.deepEqual(await peer.take(), [2, "marker", []]);
  await stream.return();
  assert.deepEqual(await peer.take(), [3, id]);
});

test("leaving the loop cancels the stream", async (t) => {
  const { s, peer } = await open(t);

  const left = (async () => {
    for await (const item of s.stream("ticks")) return item;
  })();
  const { id } = await peer.takeCall("ticks");
  await peer.take();
  peer.send([4, id, "first"]);
  peer.send([4, id, "second"]);

  assert.equal(await left, "first");
  assert.deepEqual(await peer.take(), [3, id]);
});

test("a stream that has ended is not cancelled", async (t) => {
  const { s, peer } = await open(t);

  const items = drain(s.stream("none"));
  const { id } = await peer.takeCall("none");
  await peer.take();
  peer.reply(id);
  await items;
  s.notify("marker");

  assert.deepEqual(await peer.take(), [2, "marker", []]);
});

test("an error of the stream comes after its items", async (t) => {
  const { s, peer } = await open(t);
  const items = [];

  const error = failure(drain(s.stream("count"), items));
  const { id } = await peer.takeCall("count");
  peer.send([4, id, 1]);
  peer.send([1, id, [4003, "no more", null], null]);

  assert.ok((await error) instanceof RPCError);
  assert.equal((await error).code, 4003);
  assert.deepEqual(items, [1]);
});

test("an aborted stream is cancelled and gives nothing more", async (t) => {
  const { s, peer } = await open(t);
  const controller = new AbortController();
  const items = [];

  const error = failure(
    (async () => {
      for await (const item of s.stream("count", [], { signal: controller.signal })) {
        items.push(item);
        controller.abort();
      }
    })(),
  );
  const { id } = await peer.takeCall("count");
  await peer.take();
  peer.send([4, id, 1]);
  peer.send([4, id, 2]);

  assert.equal((await error).name, "AbortError");
  assert.deepEqual(items, [1]);
  assert.deepEqual(await peer.take(), [3, id]);
});

test("a stream with an aborted signal sends nothing", async (t) => {
  const { s, peer } = await open(t);

  const error = await failure(drain(s.stream("count", [], { signal: AbortSignal.abort() })));
  s.notify("marker");

  assert.equal(error.name, "AbortError");
  assert.deepEqual(await peer.take(), [2, "marker", []]);
});

test("a stream may have a timeout", async (t) => {
  const { s, peer } = await open(t);

  const error = failure(drain(s.stream("count", [], { timeout: 0.01 })));
  const { id, meta } = await peer.takeCall("count");
  await peer.take();

  assert.ok((await error) instanceof TimeoutError);
  assert.deepEqual(meta, { timeout: 0.01 });
  assert.deepEqual(await peer.take(), [3, id]);
});

test("a stream ends with its connection and does not begin again", async (t) => {
  const { server, s, peer } = await open(t);
  const items = [];

  const error = failure(drain(s.stream("count"), items));
  const { id } = await peer.takeCall("count");
  peer.send([4, id, 1]);
  await settled(s, peer);
  peer.cut();
  const again = await server.accept();
  await s.ready();
  s.notify("marker");

  assert.ok((await error) instanceof ClosedError);
  assert.deepEqual(items, [1]);
  assert.deepEqual(await again.take(), [2, "marker", []]);
});

test("a stream begun while connecting asks for items when connected", async (t) => {
  const { server, s, peer } = await open(t);
  peer.cut();
  await next(s, "connecting");

  const items = drain(s.stream("count"));
  const again = await server.accept();
  const { id } = await again.takeCall("count");
  assert.deepEqual(await again.take(), [5, id, 16]);
  again.send([4, id, 1]);
  again.reply(id);

  assert.deepEqual(await items, [1]);
});

test("an item for a call that is no stream is passed over", async (t) => {
  const { s, peer } = await open(t);

  const reply = s.call("add");
  const { id } = await peer.takeCall("add");
  peer.send([4, id, 1]);
  peer.reply(id, 2);

  assert.equal(await reply, 2);
});
