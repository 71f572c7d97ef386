import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { decode, encode } from "../../sstream/client/vendor/msgpack.js";

const require = createRequire(new URL("../../sstream/client/package.json", import.meta.url));
const original = require("@msgpack/msgpack");

/** A generator of the same numbers in each run. Source: mulberry32. */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Any value that both codecs take. */
function value(random, depth = 0) {
  const upTo = (n) => Math.floor(random() * n);
  const length = () => (upTo(4) ? upTo(12) : upTo(400));
  const text = () => Array.from({ length: length() }, () => ["a", "é", "€", "😀", "\0"][upTo(5)]).join("");
  const kinds = [
    () => null,
    () => random() < 0.5,
    () => upTo(2 ** 8) - 2 ** 7,
    () => upTo(2 ** 17) - 2 ** 16,
    () => upTo(2 ** 34) - 2 ** 33,
    () => (upTo(2) ? 1 : -1) * upTo(Number.MAX_SAFE_INTEGER),
    () => (random() - 0.5) * 10 ** upTo(300),
    text,
    () => Uint8Array.from({ length: length() }, () => upTo(256)),
  ];
  if (depth < 5) {
    kinds.push(() => Array.from({ length: upTo(20) }, () => value(random, depth + 1)));
    kinds.push(() => Object.fromEntries(Array.from({ length: upTo(20) }, () => [text(), value(random, depth + 1)])));
  }
  return kinds[upTo(kinds.length)]();
}

test("it writes the bytes of the original and reads them back", () => {
  const random = seeded(1);

  for (let i = 0; i < 1000; i++) {
    const sample = value(random);
    const bytes = encode(sample);
    assert.deepEqual(bytes, original.encode(sample));
    assert.deepEqual(decode(bytes), sample);
    assert.deepEqual(decode(bytes), original.decode(bytes));
  }
});

test("it writes and reads every length of header as the original", () => {
  const lengths = [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536];

  for (const length of lengths)
    for (const sample of [
      "x".repeat(length),
      "é".repeat(length),
      new Uint8Array(length),
      Array(length).fill(1),
      Object.fromEntries(Array.from({ length }, (_, i) => [`k${i}`, i])),
    ]) {
      const bytes = encode(sample);
      assert.deepEqual(bytes, original.encode(sample));
      assert.deepEqual(decode(bytes), sample);
    }
});

test("damaged bytes throw or give a value, and the next message is read as if nothing had been", () => {
  const random = seeded(2);
  const good = encode([1, "good"]);

  for (let i = 0; i < 1000; i++) {
    const bytes = encode(value(random));
    for (let n = 0; n < 3; n++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    try {
      decode(bytes.subarray(0, Math.ceil(random() * bytes.length)));
    } catch (error) {
      assert.ok(error instanceof Error);
    }
    assert.deepEqual(decode(good), [1, "good"]);
  }
});

test("a key __proto__ is left out, however it is written, and nothing is poisoned", () => {
  const evil = JSON.parse('{"a": {"__proto__": {"polluted": 1}, "b": 2}, "__proto__": [1], "constructor": {"x": 3}}');
  const long = [0x81, 0xd9, 0x09, ...Buffer.from("__proto__"), 0x81, 0xa1, 0x78, 0x01]; // the key as str 8
  const nested = [0x81, 0x91, 0xa9, ...Buffer.from("__proto__"), 0x81, 0xa1, 0x78, 0x01]; // the key as ["__proto__"]

  const decoded = decode(original.encode([evil, { after: 1 }]));

  assert.deepEqual(decoded, [{ a: { b: 2 }, constructor: { x: 3 } }, { after: 1 }]);
  for (const bytes of [long, nested]) {
    const map = decode(Uint8Array.from(bytes));
    assert.equal(Object.getPrototypeOf(map), Object.prototype);
    assert.deepEqual(Object.keys(map), []);
  }
  assert.equal({}.polluted, undefined);
});

test("integers are numbers where these are exact, else bigints", () => {
  const both = [2n ** 53n - 1n, -(2n ** 53n) + 1n, 2n ** 40n, 5n];
  const big = [2n ** 53n, -(2n ** 53n), 2n ** 63n, -(2n ** 63n), 2n ** 64n - 1n];

  assert.deepEqual(decode(encode(both)), both.map(Number));
  assert.deepEqual(decode(encode(big)), big);
  for (const sample of [2n ** 64n, -(2n ** 63n) - 1n]) assert.throws(() => encode(sample), RangeError);
});

test("timestamps are read as Date; a Date, and all that has toJSON, is written as JSON would", () => {
  const dates = [new Date(0), new Date(1_700_000_000_123), new Date(-1), new Date(2 ** 35 * 1000)];
  class Money {
    toJSON() {
      return { cents: 5, other: encode("meanwhile").length };
    }
  }

  assert.deepEqual(decode(original.encode(dates)), dates);
  const sample = { at: dates[1], bad: new Date(NaN), money: new Money(), no: undefined, list: [undefined] };
  assert.deepEqual(decode(encode(sample)), JSON.parse(JSON.stringify(sample)));
});

test("half a surrogate pair becomes the replacement character, in text and in keys", () => {
  assert.deepEqual(decode(encode(["\ud83d", { "\ude00": "x".repeat(300) + "\ud83d" }])), [
    "\ufffd",
    { "\ufffd": "x".repeat(300) + "\ufffd" },
  ]);
});

test("an extension that nobody knows is its type and its bytes", () => {
  const bytes = original.encode(new original.ExtData(5, new Uint8Array([1, 2])));

  assert.deepEqual(decode(bytes), { type: 5, data: new Uint8Array([1, 2]) });
});

test("bytes may be any view or buffer", () => {
  const buffer = new Uint8Array([0, 1, 2, 3]).buffer;

  for (const sample of [buffer, new DataView(buffer), new Uint16Array(buffer), Buffer.from(buffer)])
    assert.deepEqual(decode(encode(sample)), new Uint8Array(buffer));
  assert.deepEqual(decode(encode(new DataView(buffer, 1, 2))), new Uint8Array([1, 2]));
});

test("what has no place in a message is an error", () => {
  const endless = {};
  endless.self = endless;

  for (const sample of [() => {}, Symbol("no")]) assert.throws(() => encode([sample]), TypeError);
  assert.throws(() => encode(endless), /deep/);
  assert.deepEqual(decode(encode("fine after that")), "fine after that");
});
