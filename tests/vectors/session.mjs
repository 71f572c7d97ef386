// Makes session.json, what the original software makes of cookies and sessions:
//
//     node tests/vectors/session.mjs > tests/vectors/session.json
//
// It takes express-session, and the cookie and cookie-signature that express-session itself takes, from demo/express.
import { createRequire } from "node:module";
import { IncomingMessage } from "node:http";

const require = createRequire(new URL("../../demo/express/package.json", import.meta.url));
const session = require("express-session");
const inside = createRequire(require.resolve("express-session"));
const cookie = inside("cookie");
const signature = inside("cookie-signature");

// A generator with a seed (mulberry32): the same numbers whenever this runs.
let state = 2026;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const below = (n) => Math.floor(random() * n);
const pick = (items) => items[below(items.length)];

// --- signed cookies

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const word = (length, alphabet = ALPHABET) => Array.from({ length }, () => pick(alphabet)).join("");

function signed(sid, secret) {
  const text = signature.sign(sid, secret);
  return { sid, secret, signed: text, cookie: cookie.serialize("n", `s:${text}`).slice("n=".length) };
}

const signatures = [
  signed("hello", "tobiiscool"),
  signed("AbCdEfGhIjKlMnOpQrStUvWxYz012345", "keyboard cat"),
  signed("with.dots.in.it", "SocketStream"),
  signed("a:b+c/d=e,f@g~h", "schlüssel €"),
  ...Array.from({ length: 40 }, () => signed(word(32), word(1 + below(70), [...`${ALPHABET} äß€😀"'`]))),
];

// --- Cookie headers: what cookie.parse finds under the name "connect.sid", not yet percent-decoded

const headers = [
  "connect.sid=a",
  "connect.sid=a; connect.sid=b",
  "x=1; connect.sid=a; y=2",
  'connect.sid="a"',
  'connect.sid="a',
  "connect.sid=",
  "connect.sid",
  "  connect.sid  =  a  ",
  "connect.sid=a=b",
  "connect.sid=%41%2B%c3%a4",
  "connect.sid=%zz",
  "connect.sid=%",
  "connect.sid=%ff",
  "connect.sid=a+b",
  "Connect.sid=a",
  "xconnect.sid=a",
  "connect.sid.x=a",
  ";;;connect.sid=a;;",
  "a;connect.sid=a",
  "",
  "=",
  ";",
  "connect.sid=a\tb",
  "connect.sid=a,connect.sid=b",
].map((header) => ({ header, value: cookie.parse(header, { decode: (text) => text })["connect.sid"] ?? null }));

// --- cookies: the id for which express-session asks its store, or null; it knows the secrets "new" and "old"

function asked(value) {
  const store = new session.MemoryStore();
  let sid = null;
  store.get = (id, done) => { sid = id; done(null, null); };
  const middleware = session({ secret: ["new", "old"], store, resave: false, saveUninitialized: false });
  middleware({ headers: { cookie: `connect.sid=${value}` }, url: "/" }, { end() {}, writeHead() {} }, () => {});
  return { value, sid };
}
const by = (secret, sid = "AbC-dEf_0123") => `s:${signature.sign(sid, secret)}`;
const cookies = [
  encodeURIComponent(by("new")),
  encodeURIComponent(by("old")),
  encodeURIComponent(by("other")),
  by("new"),
  `"${by("new")}"`,
  `"${encodeURIComponent(by("old"))}"`,
  encodeURIComponent(by("new")).slice(2),
  by("new").slice(0, -1),
  `${by("new")}=`,
  `${by("new")}.`,
  by("new").replace("s:", "S:"),
  by("new").replace("s:", "j:"),
  by("new").replace("s:", ""),
  "s:", "s:.", "s", "", "%", "%73%3A", "s%3A", "s:a", "s:a.b", "s:AbC-dEf_0123", "s:AbC-dEf_0123.",
  encodeURIComponent(by("new")).replace("AbC", "%41bC"),
  by("new").replace("AbC", "%41bC"),
  `${by("new")}%00`, `${by("new")}%`, `${by("new")}%zz`, `${by("new")}%ff`,
  encodeURIComponent(by("new", "a.b.c")),
].map(asked);

// --- Set-Cookie: Cookie.serialize of express-session, for the `cookie` object of a stored session

const { Cookie, Session, Store } = session;
const DATE = "2026-12-23T00:53:13.384Z";

function setCookie(fields) {
  const stored = JSON.parse(JSON.stringify(fields));
  const loaded = new Store().createSession({}, { cookie: stored }).cookie;
  return { fields, header: cookie.serialize("connect.sid", "s:value", loaded.data) };
}

const attributes = {
  partitioned: [undefined, true, false],
  priority: [undefined, "low", "medium", "high"],
  expires: [null, DATE, "1970-01-01T00:00:00.000Z", "2026-02-01T23:59:59.999Z", "2032-02-29T12:00:00.500Z"],
  secure: [undefined, true, false],
  httpOnly: [true, false],
  domain: [undefined, "example.com", ".sub.example.com"],
  path: ["/", "/app", "/a b"],
  sameSite: [undefined, true, false, "lax", "strict", "none", "Lax"],
};
const plain = { originalMaxAge: null, expires: null, httpOnly: true, path: "/" };
const setCookies = [
  setCookie(plain),
  setCookie({ originalMaxAge: 2592000000, expires: DATE, httpOnly: true, path: "/" }),
  ...Object.entries(attributes).flatMap(([name, values]) => values.map((value) => setCookie({ ...plain, [name]: value }))),
  ...Array.from({ length: 60 }, () =>
    setCookie({ originalMaxAge: null, ...Object.fromEntries(Object.entries(attributes).map(([k, v]) => [k, pick(v)])) })),
];

// --- the `cookie` object of a new session, as it is stored, for express-session's options

function newCookie(options, encrypted) {
  const req = Object.assign(Object.create(IncomingMessage.prototype), { connection: { encrypted }, headers: {}, url: "/" });
  const store = new session.MemoryStore();
  session({ secret: "x", store, resave: false, saveUninitialized: false, cookie: options });
  store.generate(req);
  return { options, encrypted, text: JSON.stringify(req.session.cookie) };
}

const newCookies = [false, true].flatMap((encrypted) =>
  [
    {},
    { secure: "auto" },
    { secure: true },
    { secure: false },
    { sameSite: "auto" },
    { sameSite: "strict" },
    { sameSite: true },
    { httpOnly: false },
    { domain: "example.com", path: "/app" },
    { partitioned: true, secure: true, sameSite: "none" },
    { priority: "high" },
  ].map((options) => newCookie(options, encrypted)));

// --- JSON.stringify. Numbers are given by their eight bytes, text by its code points: nothing in between rounds them.

const view = new DataView(new ArrayBuffer(8));
function number(value) {
  view.setFloat64(0, value);
  return { bytes: view.getBigUint64(0).toString(16).padStart(16, "0"), text: JSON.stringify(value) };
}
function anyNumber() {
  view.setUint32(0, below(2 ** 32));
  view.setUint32(4, below(2 ** 32));
  const value = view.getFloat64(0);
  return Number.isFinite(value) ? value : 0.5;
}
const powers = Array.from({ length: 80 }, (_, n) => Number(`1e${n - 40}`));
const numbers = [
  0, -0, 1, -1, 0.1, 0.2, 0.1 + 0.2, 1 / 3, 5e-324, 2.2250738585072014e-308, Number.MAX_VALUE, -Number.MAX_VALUE,
  2 ** 53, 2 ** 53 - 1, 2 ** 53 + 2, -(2 ** 53), 1e15, 1e16, 123456789012345680000, 1e20, 1e21, 1.5e21, 999999999999999900000,
  1e-5, 1e-6, 1e-7, 1.5e-7, 123e-9, 0.000001, 0.0000015, 4.35, 1.7976931348623157, 9.5e-7, 1.25,
  ...powers,
  ...powers.map((power) => power * 1.2345678901234567),
  ...Array.from({ length: 200 }, anyNumber),
  ...Array.from({ length: 100 }, () => (random() - 0.5) * Number(`1e${below(25)}`)),
].map(number);

const strings = [
  "", "a", '"', "\\", "/", "\b\f\n\r\t", "\u0000\u0001\u001f\u007f\u0080\u009f", "äöü€", "\u2028\u2029\ufeff\uffff", "😀",
  "</script>", "\u00ad\u200b",
  ...Array.from({ length: 128 }, (_, code) => String.fromCharCode(code)),
  ...Array.from({ length: 40 }, () => String.fromCodePoint(...Array.from({ length: 8 }, () => {
    const point = below(random() < 0.5 ? 0x300 : 0x110000);
    return point >= 0xd800 && point <= 0xdfff ? 0x20ac : point;
  }))),
].map((text) => ({ points: [...text].map((char) => char.codePointAt(0)), text: JSON.stringify(text) }));

// --- JSON.parse, then JSON.stringify: `null` where it refuses

const texts = [
  "{}", "[]", "null", "true", "1", '"a"', "", " ", "{", "}", "[1,]", "{,}", '{"a":1,}', "{'a':1}", "{a:1}", "[01]", "[1.]", "[.5]",
  "[+1]", "[-]", "[1e]", "[1e5]", "[1E+5]", "[-0]", "[0.10]", "[1.0]", "[NaN]", "[Infinity]", "[undefined]", '["\\q"]',
  '["\\u12"]', '["\\u00e4"]', '["\n"]', '["\t"]', '["\\/"]', '["\u007f"]', "[1]x", "[1] ", "\t[ 1 ,\r\n2 ]", "\ufeff[]", '{"a":1,"a":2}',
  '{"a":1,"b":2,"a":3}', "[9007199254740992]", "[9007199254740993]", "[-9007199254740993]", "[12345678901234567890]",
  "[1e400]", "[-1e400]", `[${"9".repeat(400)}]`, "[0.1e-400]", '{"":1}', '{"__proto__":1}', '["\\ud83d\\ude00"]',
  "[tru]", "[nul]", "//", "[1]//", "[[[[[[[[[[[[]]]]]]]]]]]]", '{"a":{"b":[{"c":null}]}}',
].map((text) => {
  try {
    return { text, stringified: JSON.stringify(JSON.parse(text)) };
  } catch {
    return { text, stringified: null };
  }
});

// --- dates

const dates = [0, 1, 999, 1000, 1e12 + 7, Date.parse(DATE), 4102444799999, ...Array.from({ length: 60 }, () => below(4e12))]
  .map((milliseconds) => {
    const date = new Date(milliseconds);
    return { milliseconds, iso: date.toISOString(), utc: date.toUTCString() };
  });

// --- names that a session does not keep: they are set in a stored session, and sought in the loaded one

const candidates = [
  ...Object.getOwnPropertyNames(Object.prototype), ...Object.getOwnPropertyNames(Session.prototype), "id", "req", "cookie",
  "user", "userId", "channels", "_sstream", "name", "length", "prototype", "then", "toJSON", "views", "sessionID", "maxAge", "",
];
const lost = [...new Set(candidates)].filter((name) => {
  if (name === "cookie") return true; // it is the cookie object's own
  const stored = JSON.parse(`{"cookie":{},${JSON.stringify(name)}:"kept"}`);
  const loaded = new Store().createSession({ sessionID: "sid" }, stored);
  return JSON.parse(JSON.stringify(loaded))[name] !== "kept";
});

const made = {
  versions: {
    "express-session": require("express-session/package.json").version,
    cookie: inside("cookie/package.json").version,
    "cookie-signature": inside("cookie-signature/package.json").version,
  },
  signatures, headers, cookies, setCookies, newCookies, numbers, strings, texts, dates, lost,
  kept: [...new Set(candidates)].filter((name) => !lost.includes(name)),
};
// One vector a line, so that a change of one is a change of one line. ASCII alone, so that no editor changes it.
const ascii = (text) => text.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
const section = (value) => Array.isArray(value)
  ? `[\n${value.map((item) => `  ${ascii(JSON.stringify(item))}`).join(",\n")}\n ]`
  : ascii(JSON.stringify(value));
console.log(`{\n${Object.entries(made).map(([name, value]) => ` "${name}": ${section(value)}`).join(",\n")}\n}`);
