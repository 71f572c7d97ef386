// What every test of the client needs: a server of its own, a socket to it, and their end.
import { connect } from "../../sstream/client/sstream.js";
import { FakeServer } from "./fake_server.mjs";

/** A server that is stopped with the test. */
export async function serve(t, port) {
  const server = await FakeServer.start(port);
  t.after(() => server.stop());
  return server;
}

/** A socket that is closed with the test. It retries at once, unless the test says otherwise. */
export function dial(t, url, options = {}) {
  const s = connect(url, { backoff: { random: () => 0 }, ...options });
  t.after(() => s.close());
  return s;
}

/** A server, a socket that is connected to it, and the server's end of it. */
export async function open(t, options) {
  const server = await serve(t);
  const s = dial(t, server.url, options);
  const peer = await server.accept();
  await s.ready();
  return { server, s, peer };
}

/** From now on time passes only by `t.mock.timers.tick`. To be called before the socket is made. */
export const mockTime = (t) => t.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });

/** The arguments of the next such event. */
export const next = (emitter, event) => new Promise((resolve) => emitter.once(event, (...args) => resolve(args)));

/** All events of this name from now on, as a list that grows. */
export function collect(emitter, event) {
  const seen = [];
  emitter.on(event, (...args) => seen.push(args));
  return seen;
}

/** Wait until everything that the server has sent so far was seen by the socket. */
export async function settled(s, peer) {
  peer.send([2, "settled", []]);
  await next(s, "settled");
}

/** The error that a promise is rejected with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not rejected");
}
