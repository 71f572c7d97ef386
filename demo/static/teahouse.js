// The page's own script: shows the session as it is, and sends the orders that go by websocket.
import { connect } from "/_sstream/client.js";

const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];

const SESSION_ENDED = 4401;

const s = connect("/live");

// The server sends the view on open, and whenever anybody else wrote: another tab, a page, Express.
s.on("session", show);

$("#menu").addEventListener("click", ({ target }) => {
  const button = target.closest("[data-tea]");
  if (button) order(s.rpc.cart.add(button.dataset.tea));
});

// Without a socket the form goes as a form: it works either way.
$("#cart").addEventListener("submit", (event) => {
  if (s.state !== "connected") return;
  event.preventDefault();
  const tea = event.submitter.value;
  order(tea ? s.rpc.cart.remove(tea) : s.rpc.cart.clear());
});

async function order(reply) {
  try {
    show(await reply);
  } catch (error) {
    say(`That did not work: ${error.message}`);
  }
}

// ---- the session

let endsAt = performance.now() + Number($("#session").dataset.ttl) * 1000;

function show(view) {
  $("#none").hidden = view !== null;
  $("#session").hidden = view === null;
  if (view) {
    $("#id").textContent = `${view.id}…`;
    $("#data").textContent = JSON.stringify(view.data, null, 2);
    endsAt = performance.now() + view.ttl * 1000;
    tick();
  }
  const writer = view?.data.lastWriter;
  const changes = showCart(view?.data.cart ?? {});
  for (const door of $$("[data-writer]")) {
    if (door.dataset.writer === writer) door.setAttribute("aria-current", "true");
    else door.removeAttribute("aria-current");
  }
  if (changes.length === 0) return;
  const by = { page: "by a page", websocket: "by websocket", express: "by Express" }[writer] ?? "elsewhere";
  say(`${changes.join(", ")}, ${by}.`);
  glow($(`[data-writer="${writer}"]`));
}

function tick() {
  const left = Math.max(0, Math.round((endsAt - performance.now()) / 1000));
  const clock = new Date((left % 86400) * 1000).toISOString().slice(11, 19);
  const days = Math.floor(left / 86400);
  $("#ttl").textContent = `${days} ${days === 1 ? "day" : "days"}, ${clock}`;
}
if (!$("#session").hidden) tick();
setInterval(tick, 1000);

// ---- the cart: every tea has its line already, hidden while there is none of it

function showCart(cart) {
  const changes = [];
  let total = 0;
  for (const line of $$("#cart li")) {
    const { tea, name, price } = line.dataset;
    const count = cart[tea] ?? 0;
    const shown = line.querySelector(".count");
    const before = Number(shown.textContent);
    if (count !== before) changes.push(`${name} ${count > before ? "+" : "−"}${Math.abs(count - before)}`);
    if (count > before) glow(line);
    shown.textContent = count;
    line.querySelector(".sum").textContent = money(price * count);
    line.hidden = count === 0;
    const poured = $(`[data-poured="${tea}"]`);
    poured.textContent = count;
    poured.hidden = count === 0;
    total += price * count;
  }
  $("#sum").textContent = money(total);
  $("#empty").hidden = total > 0;
  $("#total").hidden = total === 0;
  return changes;
}

const money = (cents) => (cents / 100).toFixed(2);

let quiet;

function say(text) {
  $("#notice").textContent = text;
  $("#notice").classList.add("up");
  clearTimeout(quiet);
  quiet = setTimeout(() => $("#notice").classList.remove("up"), 6000);
}

function glow(element) {
  element?.classList.remove("fresh");
  element?.getBoundingClientRect(); // makes the browser see the class go, so that the animation starts anew
  element?.classList.add("fresh");
}

// ---- the socket

s.on("state", showSocket);
showSocket(s.status);

function showSocket({ state, code, reason, retryIn }) {
  const texts = {
    connecting: "connecting",
    connected: "websocket open",
    waiting: `websocket away, trying again${retryIn >= 2 ? ` in ${Math.round(retryIn)} s` : ""}`,
    closed: `websocket closed${reason ? `: ${reason}` : ""}`,
  };
  $("#socket").dataset.state = state;
  $("#socket").textContent = texts[state];
  for (const button of $$("#menu [data-tea]")) button.setAttribute("aria-disabled", state !== "connected");
  if (code === SESSION_ENDED) {
    show(null);
    say("The session has ended. A new one begins with the next tea.");
    s.open();
  }
}
