// The browser's end of sstream: calls, events and channels over one websocket that comes back by itself.
// sstream.d.ts tells what each name does. All times are seconds.
import { decode, encode } from "./vendor/msgpack.js";

// The first element of a message.
const CALL = 0; //   [0, id, method, params, meta?]
const REPLY = 1; //  [1, id, error, result]
const EVENT = 2; //  [2, event, args, meta?], and to the server [2, method, params]
const CANCEL = 3; // [3, id]
const ITEM = 4; //   [4, id, item]
const MORE = 5; //   [5, id, n]

const TIMEOUT = 30; // of a call that says nothing else
const SILENCE = 30; // after so long without a word of the server, ask for one
const ANSWER = 10; //  how long that may take, or a handshake
const FIRST = 64; //   calls that waited are sent when connected, then 60 a second: more may be too fast
const STABLE = 10; //  a connection that lasts so long sets the backoff back

// Like 4xx in HTTP, 4400 to 4499 are final, except for: slow consumer, too fast.
const isFinal = (code) => code >= 4400 && code < 4500 && code !== 4408 && code !== 4429;
// Close codes that blame what was sent: it is not sent again.
const BLAMING = new Set([1002, 1003, 1007, 1008, 1009]);
// Error codes that may pass: internal, timeout, too many, unavailable.
const PASSING = new Set([-32603, 4000, 4029, 4050]);
// Names of our own events: those of the server with such a name are seen by "*" alone.
const OWN = new Set(["*", "state", "connecting", "connected", "waiting", "closed", "error", "gap", "unsubscribed"]);

const GAP = "sstream:gap"; // the server's word that something was lost

// What the classes know of each other alone.
const [EMIT, RECEIVE, SYNC, END] = ["emit", "receive", "sync", "end"].map(Symbol);

const report = (error) => (globalThis.reportError ?? console.error)(error);

export class RPCError extends Error {
  name = "RPCError";

  constructor(code, message, data = null) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

export class TimeoutError extends RPCError {
  name = "TimeoutError";
}

export class ClosedError extends Error {
  name = "ClosedError";

  constructor({ code, reason }) {
    super(reason);
    this.code = code;
  }
}

class Emitter {
  #listeners = new Map(); // event -> Map of listener -> whether once

  on(event, listener, once = false) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Map());
    this.#listeners.get(event).set(listener, once);
    return () => this.off(event, listener);
  }

  once(event, listener) {
    return this.on(event, listener, true);
  }

  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }

  // Tells whether anybody listens. One that throws does no harm to the others.
  [EMIT](event, ...args) {
    const listeners = [...(this.#listeners.get(event) ?? [])];
    for (const [listener, once] of listeners) {
      if (once) this.off(event, listener);
      try {
        listener(...args);
      } catch (error) {
        report(error);
      }
    }
    return listeners.length > 0;
  }
}

/** What has arrived and was not taken yet, as an async iterator. */
class Inbox {
  #items = [];
  #limit;
  #end = null; // {error?}
  #wake = () => {};

  constructor(limit = Infinity) {
    this.#limit = limit;
  }

  push(item) {
    if (this.#end) return;
    if (this.#items.push(item) > this.#limit) this.end({ error: new RPCError(4029, "too many events wait") });
    this.#wake();
  }

  end(end) {
    this.#end ??= end;
    this.#wake();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#items.length > 0) yield this.#items.shift();
      if (this.#end && "error" in this.#end) throw this.#end.error;
      if (this.#end) return;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}

class Channel extends Emitter {
  position = null; // {offset, epoch} of the last event, on a channel with history
  #socket;
  #deliver;
  #limit;
  #wanted = false;
  #held = null; //     events that came while the server was being asked
  #turn = Promise.resolve(); // it is asked for one thing after another
  #waiting = []; //    promises of subscribe()
  #inboxes = new Set();

  constructor(socket, name, deliver, limit) {
    super();
    this.name = name;
    this.#socket = socket;
    this.#deliver = deliver;
    this.#limit = limit;
  }

  subscribe({ since } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#socket.state === "closed") return reject(new ClosedError(this.#socket.status));
      if (since) this.position = since;
      this.#wanted = true;
      this.#waiting.push({ resolve, reject });
      this[SYNC]();
    });
  }

  unsubscribe() {
    this[END]({});
    return this.#next(async () => {
      if (this.#wanted) return;
      try {
        if (this.#socket.state === "connected") await this.#socket.call("sstream.unsubscribe", [this.name]);
      } finally {
        if (!this.#wanted) this.position = null;
      }
    });
  }

  publish(event, ...args) {
    return this.#socket.call("sstream.publish", [this.name, event, ...args]);
  }

  presence() {
    return this.#socket.call("sstream.presence", [this.name]);
  }

  async *[Symbol.asyncIterator]() {
    const inbox = new Inbox(this.#limit);
    this.#inboxes.add(inbox);
    try {
      yield* inbox;
    } finally {
      this.#inboxes.delete(inbox);
    }
  }

  #next(step) {
    const done = this.#turn.then(step);
    this.#turn = done.catch(() => {}); // `done` tells the caller
    return done;
  }

  /** Subscribe, and get what was missed since our position. If the connection is lost, the next one does it. */
  [SYNC]() {
    this.#next(async () => {
      if (!this.#wanted || this.#socket.state !== "connected") return;
      const held = (this.#held = []);
      let reply = {};
      let failure = null;
      try {
        reply = await this.#socket.call("sstream.subscribe", this.position ? [this.name, this.position] : [this.name]);
      } catch (error) {
        failure = error;
      }
      this.#held = null;
      const { missed = [], recovered, offset, epoch } = reply;
      if (recovered === false) {
        this.position = null;
        this.#gap();
      }
      for (const [, ...event] of missed) this[RECEIVE](...event);
      for (const event of held) this[RECEIVE](...event);
      if (failure) return this.#failed(failure);
      const seen = this.position?.epoch === epoch ? this.position?.offset : -1;
      if (this.#wanted && offset > seen) this.position = { offset, epoch };
      for (const { resolve } of this.#waiting.splice(0)) resolve({ offset, epoch, recovered });
    }).catch((error) => this[END]({ error })); // the reply was none
  }

  #failed(error) {
    if (error instanceof ClosedError) return;
    if (this.#waiting.length > 0 || !PASSING.has(error.code)) return this[END]({ error });
    setTimeout(() => this[SYNC](), 1000 + 4000 * Math.random());
  }

  [RECEIVE](event, args, meta) {
    const { offset, epoch } = meta;
    const last = this.#wanted && this.position;
    if (this.#held) this.#held.push([event, args, meta]);
    else if (event === GAP) {
      if (offset !== undefined) this.position = { offset, epoch };
      this.#gap();
    } else if (!last || offset === undefined) this.#pass(event, args, meta);
    else if (epoch !== last.epoch || offset > last.offset + 1) this[SYNC](); // it comes with what is missing
    else if (offset > last.offset) this.#pass(event, args, meta);
  }

  #pass(event, args, meta) {
    const { offset, epoch } = meta;
    if (offset !== undefined) this.position = { offset, epoch };
    if (!OWN.has(event)) this[EMIT](event, ...args);
    this[EMIT]("*", event, args, meta);
    for (const inbox of this.#inboxes) inbox.push({ event, args, ...meta });
    this.#deliver(event, args, meta);
  }

  #gap() {
    this[EMIT]("gap");
    this.#socket[EMIT]("gap", this.name);
  }

  /** The subscription is over: by our wish, or with an error. */
  [END](end) {
    const wasWanted = this.#wanted;
    this.#wanted = false;
    this.position = null;
    for (const { reject } of this.#waiting.splice(0)) reject(end.error ?? new RPCError(4001, "unsubscribed"));
    for (const inbox of this.#inboxes) inbox.end(end);
    if (wasWanted && end.error) this[EMIT]("unsubscribed", end.error);
  }
}

class Socket extends Emitter {
  status = { state: "closed", code: null, reason: "", retryIn: null }; // replaced, never changed
  session = null;
  rpc = methods(this, []);
  #options;
  #websocket = null; // what stands here has our handlers, what stood here has none
  #timer; //            of the handshake, the silence or the next attempt
  #flow; //             the timer of what is sent later
  #attempts = 0; //     since the last connection that lasted
  #openedAt = 0;
  #heardAt = 0;
  #lastId = 0;
  #calls = new Map(); //    id -> call that has no reply yet
  #unsent = new Set(); //   those of them that wait for a connection
  #exposed = new Map();
  #running = new Map(); //  id -> AbortController of a call by the server
  #channels = new Map();
  #trading = Promise.resolve(); // a ticket needs the cookie of the one before
  #page = null; //          AbortController of our listeners there

  constructor(url, options) {
    super();
    const { href } = new URL(url, globalThis.location?.href);
    this.url = href.replace(/^http/, "ws").replace(/#.*/, "");
    this.#options = options;
    this.open();
  }

  get state() {
    return this.status.state;
  }

  open() {
    if (this.state === "connecting" || this.state === "connected") return;
    if (!this.#page) {
      this.#page = new AbortController();
      const { document } = globalThis;
      const { signal } = this.#page;
      globalThis.addEventListener?.("online", () => this.#wakeUp(), { signal });
      document?.addEventListener("visibilitychange", () => document.hidden || this.#wakeUp(), { signal });
    }
    this.#dial();
  }

  close(code = 1000, reason = "closed by the client") {
    this.#websocket?.close(code, reason);
    this.#finish(code, reason);
  }

  async [Symbol.asyncDispose ?? Symbol("asyncDispose")]() {
    this.close();
  }

  ready({ signal } = {}) {
    return new Promise((resolve, reject) => {
      const settle = () => {
        if (signal?.aborted) reject(signal.reason);
        else if (this.state === "connected") resolve(this);
        else if (this.state === "closed") reject(new ClosedError(this.status));
        else return;
        this.off("state", settle);
        signal?.removeEventListener("abort", settle);
      };
      this.on("state", settle);
      signal?.addEventListener("abort", settle);
      settle();
    });
  }

  call(name, params, options = {}) {
    return new Promise((resolve, reject) => this.#start(name, params, options, { resolve, reject }));
  }

  notify(name, params = []) {
    if (this.state !== "connected") return false;
    this.#send([EVENT, name, params]);
    return true;
  }

  async *stream(name, params, { credit = 16, signal, timeout = null } = {}) {
    const inbox = new Inbox();
    const call = { inbox, credit, resolve: () => inbox.end({}), reject: (error) => inbox.end({ error }) };
    this.#start(name, params, { signal, timeout }, call);
    let taken = 0;
    try {
      for await (const item of inbox) {
        signal?.throwIfAborted();
        yield item;
        if (++taken < credit / 2) continue;
        if (this.#calls.has(call.id)) this.#send([MORE, call.id, taken]);
        taken = 0;
      }
    } finally {
      call.cancel?.();
    }
  }

  expose(name, fn) {
    this.#exposed.set(name, fn);
    return () => this.#exposed.get(name) === fn && this.#exposed.delete(name);
  }

  channel(name) {
    let channel = this.#channels.get(name);
    if (!channel) {
      channel = new Channel(this, name, (...event) => this.#deliver(...event), this.#options.maxQueue);
      this.#channels.set(name, channel);
    }
    return channel;
  }

  // The connection

  #enter(state, { code = null, reason = "", retryIn = null } = {}) {
    this.status = Object.freeze({ state, code, reason, retryIn });
    if (state === "closed") this.#end();
    this[EMIT](state, this.status);
    this[EMIT]("state", this.status);
  }

  #dial() {
    clearTimeout(this.#timer);
    const { WebSocket, protocols } = this.#options;
    const websocket = (this.#websocket = new WebSocket(this.url, protocols));
    websocket.binaryType = "arraybuffer";
    websocket.onopen = () => this.#opened();
    websocket.onmessage = ({ data }) => this.#receive(data);
    websocket.onclose = ({ code, reason }) => this.#lost(code, reason);
    // Not every node tells a failed handshake by "close".
    websocket.onerror = () => this.state === "connecting" && this.#lost(1006);
    this.#timer = setTimeout(() => this.#lost(1006, "the handshake took too long"), ANSWER * 1000);
    this.#enter("connecting");
  }

  #opened() {
    clearTimeout(this.#timer);
    this.#openedAt = this.#heardAt = Date.now();
    this.#timer = setInterval(() => this.#listen(), SILENCE * 1000);
    this.#flush(FIRST);
    this.#enter("connected");
    for (const channel of this.#channels.values()) channel[SYNC]();
  }

  /** The connection is gone, or was not made: the end, or a pause. */
  #lost(code, reason) {
    const wasOpen = this.state === "connected";
    reason ||= wasOpen ? "connection lost" : "could not connect";
    if (isFinal(code)) return this.#finish(code, reason);
    if (wasOpen && Date.now() - this.#openedAt >= STABLE * 1000) this.#attempts = 0;
    const { min = 0.1, max = 30, random = Math.random } = this.#options.backoff;
    const retryIn = random() * Math.min(max, min * 2 ** this.#attempts++);
    this.#drop({ code, reason }, (call) => call.queue && !(call.sent && BLAMING.has(code)));
    this.#timer = setTimeout(() => this.#dial(), retryIn * 1000);
    this.#enter("waiting", { code, reason, retryIn });
  }

  #finish(code, reason) {
    if (this.state === "closed") return;
    this.#drop({ code, reason }, () => false);
    this.#page.abort();
    this.#page = null;
    this.#attempts = 0;
    this.#enter("closed", { code, reason });
  }

  #end() {
    for (const channel of this.#channels.values()) channel[END]({ error: new ClosedError(this.status) });
    if (this.status.code === 4401) this[EMIT]("session", (this.session = null));
  }

  #drop(status, mayWait) {
    clearTimeout(this.#timer);
    clearTimeout(this.#flow);
    const websocket = this.#websocket;
    this.#websocket = null;
    if (websocket) {
      websocket.onopen = websocket.onmessage = websocket.onclose = websocket.onerror = null;
      websocket.close(); // it may be open still, and dead
    }
    for (const call of [...this.#calls.values()]) {
      if (!mayWait(call)) call.reject(new ClosedError(status));
      else this.#unsent.add(Object.assign(call, { sent: false }));
    }
    // later, when our state is right again
    for (const running of this.#running.values()) queueMicrotask(() => running.abort(new ClosedError(status)));
    this.#running.clear();
  }

  #wakeUp() {
    if (this.state === "waiting") this.#dial();
    else if (this.state === "connected") this.#probe();
  }

  #listen() {
    if (Date.now() - this.#heardAt >= SILENCE * 1000) this.#probe();
  }

  /** Ask for a sign of life; an error is one. We see no pings, and a dead network says nothing. */
  #probe() {
    const websocket = this.#websocket;
    const heardAt = this.#heardAt;
    this.call("sstream.ping", [], { timeout: ANSWER }).catch((error) => {
      const isSilent = error instanceof TimeoutError && this.#heardAt === heardAt;
      if (isSilent && this.#websocket === websocket) this.#lost(1006, "no sign of life");
    });
  }

  // Calls

  /** Begin `call`, which has `resolve` and `reject`. */
  #start(name, params = [], { timeout = this.#options.timeout, signal, queue = false, traceparent }, call) {
    if (signal?.aborted) return call.reject(signal.reason);
    const { state } = this;
    if (state === "closed" || (state === "waiting" && !queue)) return call.reject(new ClosedError(this.status));
    if (state !== "connected" && this.#unsent.size >= this.#options.maxQueue)
      return call.reject(new RPCError(4029, "too many calls wait"));

    const id = ++this.#lastId;
    const message = [CALL, id, name, params];
    const limit = Number.isFinite(timeout) ? timeout : undefined;
    if (limit ?? traceparent) message.push({ timeout: limit, traceparent });
    try {
      call.payload = this.#encode(message);
    } catch (error) {
      return call.reject(error);
    }

    const settle = (how) => (value) => {
      this.#calls.delete(id);
      this.#unsent.delete(call);
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      how(value);
    };
    const cancel = (reason) => {
      if (!this.#calls.has(id)) return;
      if (call.sent) this.#send([CANCEL, id]);
      call.reject(reason);
    };
    const abort = () => cancel(signal.reason);
    const expire = () => {
      cancel(new TimeoutError(4000, "timeout"));
      if (this.state === "connected") this.#listen();
    };
    const milliseconds = 1000 * (timeout === undefined ? TIMEOUT : (timeout ?? Infinity));
    const timer = milliseconds < 2 ** 31 ? setTimeout(expire, milliseconds) : undefined;
    signal?.addEventListener("abort", abort);
    Object.assign(call, { id, queue, cancel, sent: false, resolve: settle(call.resolve), reject: settle(call.reject) });
    this.#calls.set(id, call);
    this.#unsent.add(call);
    if (state === "connected" && !(queue && this.#unsent.size > 1)) this.#transmit(call);
  }

  #flush(count) {
    for (const call of [...this.#unsent].slice(0, count)) this.#transmit(call);
    if (this.#unsent.size > 0) this.#flow = setTimeout(() => this.#flush(6), 100);
  }

  #transmit(call) {
    this.#unsent.delete(call);
    call.sent = true;
    this.#websocket.send(call.payload);
    if (call.inbox) this.#send([MORE, call.id, call.credit]);
  }

  #send(message) {
    this.#websocket.send(this.#encode(message));
  }

  #encode(message) {
    return this.#options.protocols[0] === "sstream.v1.json" ? JSON.stringify(message) : encode(message);
  }

  // Messages

  #receive(data) {
    this.#heardAt = Date.now();
    try {
      this.#take(typeof data === "string" ? JSON.parse(data, noProto) : decode(new Uint8Array(data)));
    } catch (error) {
      this.#lost(1007, "the server sent what is no message");
      this.#fail(error);
    }
  }

  #take([type, id, first, second]) {
    const call = this.#calls.get(id);
    if (type === EVENT) this.#receiveEvent(id, first ?? [], second ?? {});
    else if (type === CALL) this.#serve(id, first, second ?? []);
    else if (type === CANCEL) this.#running.get(id)?.abort(new RPCError(4001, "cancelled"));
    else if (type === ITEM) call?.inbox?.push(first);
    else if (type === REPLY && !first) call?.resolve(second);
    else if (type === REPLY) call?.reject(new (first[0] === 4000 ? TimeoutError : RPCError)(...first));
    // Any other type is that of a newer server.
  }

  #receiveEvent(event, args, meta) {
    const name = meta.channel ?? (event === GAP ? args[0] : null);
    const channel = this.#channels.get(name);
    if (channel) return channel[RECEIVE](event, args, meta);
    if (event === GAP) return void this[EMIT]("gap", name);
    // Whoever may publish in a channel may name an event as we do.
    if (name === null && event === "sstream:ticket") {
      this.#trading = this.#trading.then(() => this.#trade(...args)).catch((error) => this.#fail(error));
      return;
    }
    if (name === null && event === "session") this.session = args[0];
    this.#deliver(event, args, meta);
  }

  #deliver(event, args, meta) {
    if (!OWN.has(event) && (event !== "session" || meta.channel === undefined)) this[EMIT](event, ...args);
    this[EMIT]("*", event, args, meta);
  }

  /** Answer a call by the server. */
  async #serve(id, name, params) {
    const websocket = this.#websocket;
    const running = new AbortController();
    this.#running.set(id, running);
    const reply = (error, result) => this.#websocket === websocket && this.#send([REPLY, id, error, result]);
    try {
      try {
        const fn = this.#exposed.get(name);
        if (!fn) throw new RPCError(-32601, `no method ${name}`);
        reply(null, await fn.apply({ signal: running.signal }, params));
      } catch (error) {
        if (!(error instanceof RPCError)) throw error;
        reply([error.code, error.message, error.data], null);
      }
    } catch (error) {
      report(error);
      reply([-32603, "internal error", null], null);
    }
    if (this.#websocket === websocket) this.#running.delete(id);
  }

  /** Get the cookie that belongs to a ticket: a websocket cannot set one. */
  async #trade(ticket, path = "/_sstream/session") {
    const url = new URL(path, this.url.replace("ws", "http"));
    const headers = { "content-type": "application/json" };
    const body = JSON.stringify({ ticket });
    for (let attempt = 1; ; attempt++) {
      try {
        const signal = AbortSignal.timeout(ANSWER * 1000);
        const request = { method: "POST", headers, body, credentials: "same-origin", keepalive: true, signal };
        const { fetch } = this.#options; // a method it must not be
        const { ok, status } = await fetch(url, request);
        if (ok) return;
        if (status < 500) attempt = 5;
        throw new Error(`the ticket was answered by ${status}`);
      } catch (error) {
        if (attempt >= 5) throw error;
      }
      await new Promise(resolve => setTimeout(resolve, Math.random() * 1000 * 2 ** attempt));
    }
  }

  #fail(error) {
    if (!this[EMIT]("error", error)) report(error);
  }
}

const noProto = (key, value) => (key === "__proto__" ? undefined : value);

function methods(socket, path) {
  return new Proxy(() => {}, {
    // None is called "then", or `await s.rpc.cart` would call it.
    get: (_, name) => (typeof name === "symbol" || name === "then" ? undefined : methods(socket, [...path, name])),
    apply: (_, self, params) => socket.call(path.join("."), params),
  });
}

export function connect(url, options = {}) {
  const { backoff = {}, timeout, maxQueue = 1000, protocols = "sstream.v1.msgpack" } = options;
  const { WebSocket = globalThis.WebSocket, fetch = globalThis.fetch } = options;
  return new Socket(url, { backoff, timeout, maxQueue, protocols: [protocols].flat(), WebSocket, fetch });
}
