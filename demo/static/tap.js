// A websocket that can be listened in on, and cut off: what the panel Wire needs. The client takes any constructor.

let current = null;
let isCut = false;
const listeners = new Set(); // (way, data), way being "sent" or "received"

export const listenIn = (listener) => listeners.add(listener);

export function TappedWebSocket(url, protocols) {
  if (isCut) return new Nowhere();
  const websocket = (current = new WebSocket(url, protocols));
  const tell = (way, data) => listeners.forEach((listener) => listener(way, data));
  websocket.addEventListener("message", ({ data }) => tell("received", data));
  websocket.send = (data) => {
    WebSocket.prototype.send.call(websocket, data);
    tell("sent", data);
  };
  return websocket;
}

/** Drop the connection, and let none through until `mend`. */
export function cut() {
  isCut = true;
  current?.close();
}

export function mend() {
  isCut = false;
}

/** Where a connection goes while we are cut off. */
class Nowhere {
  constructor() {
    setTimeout(() => this.onclose?.({ code: 1006, reason: "cut off" }));
  }

  close() {}
}
