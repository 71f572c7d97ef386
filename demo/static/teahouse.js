// The page's own script: opens the websocket, hands it to the panels, and shows how it is.
import { connect } from "/_sstream/client.js";
import { startChat } from "./chat.js";
import { $, $$, say } from "./dom.js";
import { showSession, startSession } from "./session.js";
import { startShop } from "./shop.js";
import { TappedWebSocket } from "./tap.js";
import { startWire } from "./wire.js";

const SESSION_ENDED = 4401;

const s = connect("/live", { WebSocket: TappedWebSocket });

s.on("state", show);
show(s.status);
for (const start of [startSession, startShop, startChat, startWire]) start(s);

function show({ state, code, reason, retryIn }) {
  const socket = $("#socket");
  const texts = {
    connecting: "connecting",
    connected: "websocket open",
    waiting: `websocket away, trying again${retryIn >= 2 ? ` in ${Math.round(retryIn)} s` : ""}`,
    closed: `websocket closed${reason ? `: ${reason}` : ""}`,
  };
  socket.dataset.state = state;
  socket.textContent = texts[state];
  // Not `disabled`: who has the focus there would lose it.
  for (const button of $$("button.websocket:not([disabled], #drop)")) button.setAttribute("aria-disabled", state !== "connected");
  if (code === SESSION_ENDED) {
    showSession(null);
    say("The session has ended, here and in every other tab. A new one begins with the next tea.");
    s.open();
  }
}
