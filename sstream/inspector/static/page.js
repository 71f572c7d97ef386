// The inspector's page. All it knows comes by the websocket, and every text of it is set as text.

import { connect } from "../client.js";
import { bar, draw, duration, heat, lanes, number, onScale, rates, scale, spark, whisker } from "./plots.js";

const SPAN = 120; // seconds
const OWN = "sstream.inspector.";
const BOUNDS = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const CODES = {
  "-32700": "not readable", "-32600": "invalid request", "-32601": "no such method", "-32602": "wrong arguments",
  "-32603": "internal error", 4000: "timeout", 4001: "cancelled", 4003: "forbidden", 4009: "conflict",
  4029: "too many", 4040: "session gone", 4050: "unavailable", 0: "other",
};

const $ = (id) => document.getElementById(id);
const url = new URL("inspector/ws", location.href.replace(/\/$/, ""));
url.protocol = url.protocol.replace("http", "ws");
const socket = connect(url.href, { backoff: { max: 5 } });

let past = []; //    snapshots, the oldest first
let me = { act: false, values: false };
let who = { sockets: [], channels: [], users: [], hidden: 0 };
let changes = [];
let chosen = null; // the short name of a session
let pointed = null; // the moment under the pointer

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const short = (id) => (id ? id.slice(0, 6) : "");
const since = (at) => (ago(at) === "now" ? "now" : `${ago(at)} ago`);
const ask = (method, ...params) => socket.call(OWN + method, params);
const now = () => past.at(-1)?.at ?? Date.now() / 1000;

function ago(at) {
  const seconds = Math.max(Math.round(now() - at), 0);
  if (seconds === 0) return "now";
  if (seconds < 90) return `${seconds} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** Let a list have these elements in this order; what is there already is not touched, it may be under a pointer. */
function arrange(place, elements) {
  const wanted = new Set(elements);
  for (const element of [...place.children]) if (!wanted.has(element)) element.remove();
  elements.forEach((element, index) => {
    if (place.children[index] !== element) place.insertBefore(element, place.children[index] ?? null);
  });
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- the tiles ------------------------------------------------------------------------------------------------------

const TILES = [
  ["sockets", "Sockets", (value) => [number(value)]],
  ["users", "Users", (value) => [number(value)]],
  ["in_flight", "Calls in flight", (value) => [number(value)]],
  ["queued", "Waits for slow readers", (value) => (value < 1024 ? [String(value), "B"] : value < 1048576 ? [number(value / 1024), "KB"] : [number(value / 1048576), "MB"]), 65536],
  ["lag", "Event loop late by", (value) => duration(value).split(" "), 0.02, 0.1],
  ["pages", "Pages", (value) => [number(value), "/ s"], 1],
];

const tiles = new Map(
  TILES.map(([key, label]) => {
    const value = make("p", { class: "value" });
    const line = draw("svg", { "aria-hidden": "true" });
    const tile = make("div", { class: "tile" }, make("p", { class: "label" }, label), value, line);
    $("tiles").append(tile);
    return [key, { tile, value, line }];
  }),
);

function showTiles() {
  const last = past.at(-1);
  for (const [key, , words, most = 4, bad = Infinity] of TILES) {
    const { tile, value, line } = tiles.get(key);
    const [figure, unit] = words(last[key]);
    value.replaceChildren(figure, unit ? make("small", {}, unit) : "");
    tile.classList.toggle("bad", last[key] >= bad);
    spark(line, past.map((snapshot) => snapshot[key]), 200, 36, { most });
  }
}

// --- calls ----------------------------------------------------------------------------------------------------------

function showCalls() {
  const options = { now: now(), span: SPAN, at: pointed };
  const last = past.at(-1);
  const at = pointed === null ? last : past.reduce((a, b) => (Math.abs(b.at - pointed) < Math.abs(a.at - pointed) ? b : a));
  rates($("rate"), past, options);
  heat($("heat"), past, BOUNDS, options);
  const when = at === last ? "now" : since(at.at);
  $("rate-read").textContent = `${number(at.ok)} answered, ${number(at.failed)} failed, ${when}`;
  const slowest = at.methods.reduce((most, { p99 }) => (p99 !== null && p99 > (most ?? 0) ? p99 : most), null);
  $("heat-read").textContent = slowest === null ? `no calls ${when}` : `99 of 100 within ${duration(slowest)}, ${when}`;
}

for (const [id, left] of [["rate", 40], ["heat", 48]]) {
  $(id).addEventListener("pointermove", (event) => {
    if (!past.length) return;
    const { x, width } = $(id).getBoundingClientRect();
    pointed = now() - SPAN * (1 - Math.max(event.clientX - x - left, 0) / (width - left));
    showCalls();
  });
  $(id).addEventListener("pointerleave", () => {
    pointed = null;
    if (past.length) showCalls();
  });
}

// A row stays where it is, so that one can read it; new ones come in by how much they are called.
const rows = new Map();

function showMethods() {
  const seen = new Map();
  for (const snapshot of past) for (const method of snapshot.methods) seen.set(method.name, method);
  const place = $("methods");
  if (!seen.size) {
    rows.clear();
    return place.replaceChildren(make("p", { class: "none" }, "Nothing was called in the last two minutes."));
  }
  if (!rows.size) {
    const axis = draw("svg", { "aria-hidden": "true" });
    place.replaceChildren(make("div", { class: "method scale" }, make("span"), make("span"), make("span"), make("span", { class: "times" }, axis), make("span")));
    rows.set("", { axis });
  }
  for (const name of rows.keys()) if (name && !seen.has(name)) (rows.get(name).row.remove(), rows.delete(name));
  const sum = (name) => past.reduce((all, { methods }) => all + (methods.find((method) => method.name === name)?.ok ?? 0), 0);
  for (const name of [...seen.keys()].filter((name) => !rows.has(name)).sort((a, b) => sum(b) - sum(a))) {
    const parts = { trend: draw("svg", { "aria-hidden": "true" }), times: draw("svg", { role: "img" }), rate: make("span", { class: "number" }), failed: make("span", { class: "number" }) };
    const row = make("div", { class: "method" }, make("span", { class: "name", title: name }, name), make("span", { class: "trend" }, parts.trend), parts.rate, make("span", { class: "times" }, parts.times), parts.failed);
    place.append(row);
    rows.set(name, { row, ...parts });
  }
  const width = [...rows.values()].find(({ times }) => times)?.times.parentElement.clientWidth || 300;
  scale(rows.get("").axis, width, { labels: true, height: 20 });
  const last = new Map(past.at(-1).methods.map((method) => [method.name, method]));
  for (const [name, { trend, times, rate, failed }] of rows) {
    if (!name) continue;
    const method = last.get(name);
    const shown = method?.p50 != null ? method : seen.get(name);
    trend.setAttribute("height", 24);
    spark(trend, past.map(({ methods }) => { const found = methods.find((one) => one.name === name); return found ? found.ok + found.failed : 0; }), 160, 24);
    whisker(times, width, shown);
    times.setAttribute("aria-label", `half within ${duration(shown.p50)}, 99 of 100 within ${duration(shown.p99)}`);
    rate.replaceChildren(number((method?.ok ?? 0) + (method?.failed ?? 0)), make("small", {}, " / s"));
    const share = method ? method.failed / (method.ok + method.failed) : 0;
    failed.textContent = share ? `${Math.max(Math.round(share * 100), 1)} % failed` : duration(shown.p99);
    failed.classList.toggle("failed", share > 0);
  }
}

function showSlow({ slow, failed }) {
  const list = slow.slice(0, 8).map(({ at, seconds, method, socket }) =>
    make("li", {}, bar(onScale(seconds)), make("span", { class: "name" }, make("span", { class: "mono" }, method), make("small", {}, `${since(at)}, socket ${short(socket)}`)), duration(seconds)),
  );
  $("slow").replaceChildren(list.length ? make("ul", { class: "bars" }, ...list) : make("p", { class: "none" }, "Nothing was called in the last minute."));
  const recent = failed.filter(({ at }) => now() - at < SPAN);
  if (!recent.length) return $("failed").replaceChildren(make("p", { class: "none" }, "Nothing failed in the last two minutes."));
  let plot = $("failed").querySelector(".lanes");
  let rest = $("failed").querySelector("ul");
  if (!plot) $("failed").replaceChildren((plot = make("div", { class: "lanes" })), (rest = make("ul", { class: "bars" })));
  const codes = [...new Set(recent.map(({ code }) => code))].slice(0, 6);
  const words = (code) => CODES[code] ?? String(code);
  const moments = recent.map(({ at, code, method }) => ({ at, lane: words(code), title: `${method}: ${words(code)}` }));
  lanes(plot, codes.map(words), moments, { now: now(), span: SPAN, className: () => "failed-dot", label: `${recent.length} calls failed` });
  rest.replaceChildren(
    ...recent.slice(0, 5).map(({ at, method, socket, code }) =>
      make("li", {}, make("span", { class: "name" }, make("span", { class: "mono" }, method), make("small", {}, `${since(at)}, socket ${short(socket)}`)), make("span", { class: "badge" }, `${code || ""} ${words(code)}`)),
    ),
  );
}

// --- who ------------------------------------------------------------------------------------------------------------

const shown = new Map(); // socket id -> its row

function rowOf(one) {
  const user = make("span");
  const channels = make("span");
  const busy = make("span", { class: "busy" });
  const ids = make("span", { class: "ids", title: `socket ${one.id}` });
  const pick = make("button", { class: "pick", type: "button" }, user, make("span", { class: "where" }, channels, busy), ids);
  const name = `${short(one.id)} of ${one.user ?? "an anonymous visitor"}`;
  const kick = make("button", { class: "act", type: "button", "aria-label": `Close socket ${name}` }, "Close");
  const row = { item: make("li", { class: "socket" }, pick, me.act ? kick : null), user, channels, busy, ids, pick, one };
  pick.addEventListener("click", () => attempt(() => choose(row.one.session)));
  kick.addEventListener("click", () => attempt(() => kickOut(row.one)));
  return row;
}

function showSocket(one) {
  if (!shown.has(one.id)) shown.set(one.id, rowOf(one));
  const row = shown.get(one.id);
  row.one = one;
  row.user.className = one.user === null ? "user nobody" : "user";
  write(row.user, one.user ?? "anonymous");
  write(row.channels, one.channels.join(", ") || one.handler);
  const busy = [one.in_flight ? `${one.in_flight} in flight` : "", one.queued ? `${number(one.queued)} B wait` : ""];
  write(row.busy, busy.filter(Boolean).map((text) => ` · ${text}`).join(""));
  write(row.ids, `${short(one.id)}${one.session ? ` · ${short(one.session)}` : ""}`);
  row.pick.disabled = one.session === null;
  row.pick.setAttribute("aria-pressed", String(one.session !== null && one.session === chosen));
  return row.item;
}

const nobody = make("li", { class: "none" });

function showWho() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = ({ user, session, channels, handler, id }) => [user, session, handler, id, ...channels].join(" ").toLowerCase();
  const found = who.sockets.filter((one) => words.every((word) => text(one).includes(word)));
  const here = new Set(who.sockets.map(({ id }) => id));
  for (const id of shown.keys()) if (!here.has(id)) shown.delete(id);
  write(nobody, who.sockets.length ? "None of them is like that." : "Nobody is here.");
  arrange($("sockets"), found.length ? found.map(showSocket) : [nobody]);
  $("hidden").textContent = who.hidden ? `and ${number(who.hidden)} more: write the whole name of a user or a channel, or the id of a socket, to find it` : "";
  for (const [id, none] of [["channels", "Nobody listens to a channel."], ["users", "Nobody has logged in."]]) {
    const most = Math.max(...who[id].map(([, size]) => size), 1);
    const items = who[id].slice(0, 12).map(([name, size]) => make("li", {}, bar(size / most), make("span", { class: "name" }, name), String(size)));
    if (who[id].length > 12) items.push(make("li", {}, make("small", {}, `and ${who[id].length - 12} more`)));
    $(id).replaceChildren(items.length ? make("ul", { class: "bars" }, ...items) : make("p", { class: "none" }, none));
  }
}

async function choose(session) {
  chosen = session === chosen ? null : session;
  showWho();
  await readSession();
}

async function readSession() {
  const asked = chosen;
  const [list, view] = await Promise.all([ask("changes", asked), asked === null ? null : ask("session", asked).catch(() => null)]);
  if (asked !== chosen) return;
  changes = list;
  showSession(view);
}

const LANES = { page: "page", socket: "websocket", elsewhere: "elsewhere" };

const end = make("button", { class: "act", type: "button", on: { click: () => attempt(endSession) } }, "End session");
const all = make("button", { class: "plain", type: "button", on: { click: () => attempt(() => choose(chosen)) } }, "All sessions");
const inside = make("div");
const history = make("ul", { class: "changes", tabindex: "0", "aria-label": "Changes, the newest first" });
$("session").append(make("div", { class: "lanes" }), inside, history);

function showSession(view) {
  write($("session-title"), chosen === null ? "Session changes" : `Session ${short(chosen)}`);
  arrange($("session-acts"), chosen === null ? [] : me.act && view ? [end, all] : [all]);
  const moments = changes.map(({ at, transport, keys }) => ({ at, lane: LANES[transport], title: keys.join(", ") }));
  const className = (lane) => `lane-${Object.keys(LANES).find((key) => LANES[key] === lane)}`;
  const plot = $("session").querySelector(".lanes");
  lanes(plot, Object.values(LANES), moments, { now: now(), span: SPAN, className, label: `${changes.length} changes` });
  inside.replaceChildren();
  if (chosen !== null && !view) inside.append(make("p", { class: "none" }, "No socket of this process has it open any more."));
  if (view) {
    const entries = view.keys.flatMap(([key, kind]) => [make("dt", {}, key), make("dd", {}, view.values ? JSON.stringify(view.values[key]) : kind)]);
    inside.append(view.keys.length ? make("dl", { class: "keys" }, ...entries) : make("p", { class: "none" }, "There is nothing in it."));
  }
  if (!changes.length) inside.append(make("p", { class: "none" }, "Nothing was changed since somebody looks."));
  const { scrollTop } = history;
  history.replaceChildren(
    ...changes.slice(0, 60).map(({ at, transport, keys, socket, session }) =>
      make("li", {}, make("span", { class: "when" }, ago(at)), make("span", { class: `how lane-${transport}` }, LANES[transport]), make("span", { class: "what" }, keys.join(", ") || "its id"), make("span", { class: "which" }, chosen === null ? short(session) : short(socket))),
    ),
  );
  history.scrollTop = scrollTop;
  history.hidden = !changes.length;
}

function confirmed(text, yes) {
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask").returnValue = "no";
  $("ask").showModal();
  return new Promise((resolve) => $("ask").addEventListener("close", () => resolve($("ask").returnValue === "yes"), { once: true }));
}

// What could not be done is told until something else is done.
async function attempt(work) {
  const told = $("refusal");
  told.hidden = true;
  try {
    await work();
  } catch (error) {
    told.textContent = error.message;
    told.hidden = false;
  }
}

async function kickOut({ id, user }) {
  if (!(await confirmed(`Close socket ${short(id)} of ${user ?? "an anonymous visitor"}? Its client may come back.`, "Close socket"))) return;
  await ask("kick", id);
  await readWho();
}

async function endSession() {
  const name = chosen;
  if (!(await confirmed(`End session ${short(name)}? All its sockets are closed, on every process, and it is logged out.`, "End session"))) return;
  await ask("end", name);
  chosen = null;
  await Promise.all([readWho(), readSession()]);
}

async function readWho() {
  who = await ask("who", $("filter").value);
  showWho();
}

// --- live -----------------------------------------------------------------------------------------------------------

function show() {
  if (!past.length) return;
  showTiles();
  showCalls();
  showMethods();
}

function tell(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

async function follow() {
  me = await ask("about");
  const place = me.port === null ? me.host : `${me.host}, port ${me.port}`;
  document.title = `Inspector: ${place}, process ${me.pid}`;
  $("process").replaceChildren("This process alone: ", make("strong", {}, `${place}, process ${me.pid}`), `, up since ${new Date(me.started * 1000).toLocaleString()} · sstream ${me.version}, Python ${me.python}`);
  await Promise.all([readWho(), readSession()]);
  for await (const item of socket.stream(`${OWN}watch`)) {
    if (item.past) past = item.past;
    else past = [...past, item].filter(({ at }) => item.at - at <= SPAN);
    tell("live", "live");
    show();
    if (!document.hidden) refresh();
  }
}

let refreshing = false;

// Beside the stream: it must not wait for this.
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  try {
    const [calls] = await Promise.all([ask("calls"), readWho(), readSession()]);
    if (past.length) showSlow(calls);
  } catch (error) {
    if (socket.state === "connected") tell("closed", error.message);
  } finally {
    refreshing = false;
  }
}

socket.on("connected", () => {
  // What ends it is told by the state.
  follow().catch((error) => socket.state === "connected" && tell("closed", error.message));
});
socket.on("waiting", () => tell("connecting", "reconnecting"));
socket.on("closed", ({ reason }) => tell("closed", reason || "closed"));
$("filter").addEventListener("input", showWho);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  event.preventDefault();
  $("filter").focus();
});
new ResizeObserver(show).observe(document.querySelector("main"));
