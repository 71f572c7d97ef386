// A small websocket server that says what a test tells it to: RFC 6455 by hand, MessagePack by the original codec.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../sstream/client/package.json", import.meta.url));
const { decode, encode } = require("@msgpack/msgpack");

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455, 1.3

/** Things that arrive, to be taken one by one. */
class Mailbox {
  #items = [];
  #takers = [];

  put(item) {
    const taker = this.#takers.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  }

  take() {
    return new Promise((resolve) => {
      if (this.#items.length > 0) resolve(this.#items.shift());
      else this.#takers.push(resolve);
    });
  }
}

/** The server's end of one websocket. */
export class Peer {
  #stream;
  #rest = Buffer.alloc(0);
  #messages = new Mailbox();

  constructor(stream, request, protocol) {
    this.#stream = stream;
    this.request = request;
    this.protocol = protocol;
    this.closed = new Promise((resolve) => (this.resolveClosed = resolve)); // {code, reason} of the client
    stream.on("data", (data) => this.#read(data));
    stream.on("error", () => stream.destroy()); // a reset is an end like any other
    stream.on("close", () => this.resolveClosed({ code: 1006, reason: "" }));
  }

  /** The next message, decoded. */
  take() {
    return this.#messages.take();
  }

  /** The next message, which must be a call of this name: its id, params and meta. */
  async takeCall(name) {
    const [type, id, method, params, meta] = await this.take();
    if (type !== 0 || method !== name) throw new Error(`expected a call of ${name}, not [${type}, ${id}, ${method}]`);
    return { id, params, meta };
  }

  send(message) {
    if (this.protocol === "sstream.v1.json") this.sendFrame(1, Buffer.from(JSON.stringify(message)));
    else this.sendFrame(2, encode(message));
  }

  reply(id, result = null) {
    this.send([1, id, null, result]);
  }

  sendFrame(opcode, payload) {
    const size = payload.length;
    const head = Buffer.from(size < 126 ? [0x80 | opcode, size] : [0x80 | opcode, 126, size >> 8, size & 255]);
    this.#stream.write(Buffer.concat([head, payload]));
  }

  close(code, reason = "") {
    const payload = Buffer.alloc(2 + Buffer.byteLength(reason));
    payload.writeUInt16BE(code);
    payload.write(reason, 2);
    this.sendFrame(8, payload);
    this.#stream.end();
  }

  /** No close frame, no FIN: the cable is cut. */
  cut() {
    this.#stream.resetAndDestroy();
  }

  #read(data) {
    this.#rest = Buffer.concat([this.#rest, data]);
    for (;;) {
      const rest = this.#rest;
      if (rest.length < 6) return;
      let size = rest[1] & 127;
      let at = 2;
      if (size === 126) [size, at] = [rest.readUInt16BE(2), 4];
      else if (size === 127) [size, at] = [Number(rest.readBigUInt64BE(2)), 10];
      if (rest.length < at + 4 + size) return;
      const mask = rest.subarray(at, at + 4);
      const payload = Buffer.from(rest.subarray(at + 4, at + 4 + size)).map((byte, i) => byte ^ mask[i % 4]);
      this.#rest = rest.subarray(at + 4 + size);
      const opcode = rest[0] & 15;
      if (opcode === 1) this.#messages.put(JSON.parse(payload.toString()));
      else if (opcode === 2) this.#messages.put(decode(payload));
      else if (opcode === 8) {
        const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
        this.resolveClosed({ code, reason: payload.subarray(2).toString() });
        this.sendFrame(8, payload);
        this.#stream.end();
      }
    }
  }
}

/** A server on a free port; `accept()` gives the next websocket, a `Peer`, and `post()` the next POST. */
export class FakeServer {
  #http = createServer((request, response) => this.#answer(request, response));
  #peers = new Mailbox();
  #posts = new Mailbox();
  #refused = new Mailbox();
  #sockets = new Set();
  handshakes = 0;
  /** What the next handshakes are answered with instead of 101: bytes of an HTTP reply, or "silence". */
  refusals = [];

  static async start(port = 0) {
    const server = new FakeServer();
    server.#http.on("upgrade", (request, stream) => server.#upgrade(request, stream));
    server.#http.on("connection", (socket) => {
      server.#sockets.add(socket);
      socket.on("close", () => server.#sockets.delete(socket));
    });
    server.#http.listen(port, "127.0.0.1");
    await once(server.#http, "listening");
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.#http.address().port}/ws`;
  }

  accept() {
    return this.#peers.take();
  }

  /** `{request, body, response}` */
  post() {
    return this.#posts.take();
  }

  /** Returns when a handshake was refused. */
  refused() {
    return this.#refused.take();
  }

  /** Cut every connection. */
  dropAll() {
    for (const socket of this.#sockets) socket.destroy();
  }

  stop() {
    this.#http.close();
    this.dropAll();
  }

  #upgrade(request, stream) {
    this.handshakes++;
    const refusal = this.refusals.shift();
    if (refusal !== undefined) {
      if (refusal !== "silence") stream.end(refusal);
      return this.#refused.put();
    }
    const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
    const protocol = request.headers["sec-websocket-protocol"]?.split(",")[0].trim();
    const lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"];
    lines.push(`Sec-WebSocket-Accept: ${accept}`);
    if (protocol) lines.push(`Sec-WebSocket-Protocol: ${protocol}`);
    stream.write(lines.join("\r\n") + "\r\n\r\n");
    this.#peers.put(new Peer(stream, request, protocol));
  }

  #answer(request, response) {
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => this.#posts.put({ request, body, response }));
  }
}
