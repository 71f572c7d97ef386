// The panel Shop: orders by websocket, the cart as it is, and the answer to a wrong order.
import { $, $$, excuse, glow, say } from "./dom.js";
import { showSession } from "./session.js";

export function startShop(s) {
  document.addEventListener("session", ({ detail: view }) => showCart(view?.data.cart ?? {}, view?.data.lastWriter));

  const order = (reply) => reply.then(showSession, excuse);

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

  $("#by-hand").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { tea, count } = event.target.elements;
    try {
      showSession(await s.call("cart.add", [parse(tea.value), parse(count.value)]));
      answer("ok", "", "A right order: it is in the cart.");
    } catch (error) {
      // "params[1] (count): expected int <= 12"
      const [, path, what] = /^(?:(\S+ \(\w+\)): )?(.*)$/s.exec(error.message);
      answer(error.code, path ?? "", what);
    }
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function answer(code, path, what) {
  const parts = [["b", code], ["code", path], ["span", what]].filter(([, text]) => text);
  $("#answer").dataset.ok = code === "ok";
  $("#answer").replaceChildren(
    ...parts.map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })),
  );
}

// Every tea has its line already, hidden while there is none of it.
function showCart(cart, writer) {
  const changes = [];
  let total = 0;
  for (const line of $$("#cart li")) {
    const { tea, name, price } = line.dataset;
    const count = cart[tea] ?? 0;
    const shown = $(".count", line);
    const before = Number(shown.textContent);
    if (count !== before) changes.push(`${name} ${count > before ? "+" : "−"}${Math.abs(count - before)}`);
    if (count > before) glow(line);
    shown.textContent = count;
    $(".sum", line).textContent = money(price * count);
    line.hidden = count === 0;
    const poured = $(`[data-poured="${tea}"]`);
    poured.textContent = count;
    poured.hidden = count === 0;
    total += price * count;
  }
  $("#sum").textContent = money(total);
  $("#empty").hidden = total > 0;
  $("#total").hidden = total === 0;
  const by = { page: "by a page", websocket: "by websocket", express: "by Express" }[writer] ?? "elsewhere";
  if (changes.length > 0) say(`${changes.join(", ")}, ${by}.`);
}

const money = (cents) => (cents / 100).toFixed(2);
