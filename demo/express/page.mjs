// How the Express page looks: the Teahouse's own style, filled in by template literals.
import { readFileSync } from "node:fs";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const ICONS = read("../templates/icons.svg");

export const TEAS = JSON.parse(read("../teas.json"));

export const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  "Referrer-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
};

const escape = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
const money = (cents) => (cents / 100).toFixed(2);
const icon = (name) => `<svg class="icon" aria-hidden="true"><use href="#icon-${name}"/></svg>`;
const hours = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);

const cup = (tea) => `<svg class="cup" viewBox="0 0 48 48" aria-hidden="true">
  <circle class="glaze" cx="24" cy="24" r="22"/><circle cx="24" cy="24" r="16.5" fill="${tea.liquor}"/>
  <path class="shine" d="M13.5 20.5a11.5 11.5 0 0 1 9-8"/></svg>`;

const sellable = ([id, tea], count) => `<li id="${id}">
  <div class="saucer" aria-hidden="true">${cup(tea)}${count > 0 ? `<span class="poured">${count}</span>` : ""}</div>
  <div class="tea">
    <h3>${escape(tea.name)} <span class="price">${money(tea.price)}</span></h3>
    <p>${escape(tea.kind[0].toUpperCase() + tea.kind.slice(1))}, ${escape(tea.origin)}<br>
       ${escape(tea.taste[0].toUpperCase() + tea.taste.slice(1))}</p>
  </div>
  <div class="buttons">
    <button name="tea" value="${id}" class="by express">${icon("express")}
      <span><span class="verb">Add <span class="unseen">${escape(tea.name)}</span></span> by Express</span></button>
  </div></li>`;

const ordered = ([id, tea], count) => `<li data-tea="${id}">${cup(tea)}
  <span class="what"><b class="count">${Number(count)}</b> ${escape(tea.name)}</span>
  <span class="sum">${money(tea.price * count)}</span>
  <button name="tea" value="${id}" class="less" title="Take one out">${icon("minus")}
    <span class="unseen">Take one ${escape(tea.name)} out</span></button></li>`;

const door = (name, label, last) => `<li data-writer="${name}"${name === last ? ' aria-current="true"' : ""}>
  ${icon(name)}${label}</li>`;

function link(req, [name, port]) {
  const current = req.socket.localPort === port ? ' aria-current="page"' : "";
  return `<a href="http://${escape(req.hostname)}:${port}/"${current}>${name} <span>:${port}</span></a>`;
}

function sessionPanel(id, ttl, data) {
  return `<h3 id="writer-title">Last written by</h3>
    <ul class="doors" aria-labelledby="writer-title">
      ${door("page", "Page", data.lastWriter)}${door("websocket", "Websocket", data.lastWriter)}
      ${door("express", "Express", data.lastWriter)}
    </ul>
    <dl>
      <dt>Id</dt><dd><code id="id">${escape(id.slice(0, 8))}…</code></dd>
      <dt>Ends in</dt><dd><time id="ttl">${Math.floor(ttl / 86400)} days, ${hours(ttl % 86400)}</time></dd>
    </dl>
    <h3 id="data-title">Data</h3>
    <pre id="data" tabindex="0" role="region" aria-labelledby="data-title">${escape(JSON.stringify(data, null, 2))}</pre>`;
}

const NONE = `<div class="none"><p><strong>No session yet.</strong>
  Nothing is stored and no session cookie is set until you add a tea.</p></div>`;

/** The whole page. `ttl` is what Redis says, in seconds; below zero there is no stored session. */
export function page(req, ttl, doors) {
  const { cookie, ...data } = req.session;
  const cart = Object.entries(TEAS).filter(([id]) => data.cart?.[id] > 0);
  const total = cart.reduce((sum, [id, tea]) => sum + tea.price * data.cart[id], 0);
  return `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>The Teahouse in Express · sstream</title>
  <link rel="icon" type="image/svg+xml" href="/static/favicon.svg">
  <link rel="stylesheet" href="/static/teahouse.css">
</head>
<body>
${ICONS}
<a class="skip" href="#menu">Skip to the tea</a>
<header class="house">
  <p class="name">${icon("cup")}Teahouse</p>
  <nav aria-label="Servers of this session">
    ${Object.entries(doors).map((entry) => link(req, entry)).join("")}
  </nav>
</header>
<main>
  <div class="lead">
    <h1>The door to Express</h1>
    <p>An ordinary Express application, with express-session and connect-redis. What you add here shows at once in
       every open tab of the Teahouse; what you add there is here after a reload.</p>
  </div>
  <div class="panels two">
    <section class="panel session" aria-labelledby="session-title">
      <h2 id="session-title">Session</h2>
      ${ttl < 0 ? NONE : sessionPanel(req.sessionID, ttl, data)}
    </section>
    <section class="panel shop" aria-labelledby="shop-title">
      <h2 id="shop-title">Shop</h2>
      <div class="counter">
        <form class="menu" id="menu" method="post" action="/cart/add">
          <ul>${Object.entries(TEAS).map((entry) => sellable(entry, data.cart?.[entry[0]])).join("")}</ul>
        </form>
        <form class="cart" id="cart" method="post" action="/cart/remove" aria-labelledby="cart-title"><div class="till">
          <h3 id="cart-title">Your cart</h3>
          ${cart.length ? "" : '<p class="empty">Still empty. The kettle is on.</p>'}
          <ul>${cart.map((entry) => ordered(entry, data.cart[entry[0]])).join("")}</ul>
          ${cart.length ? `<div class="total"><p><span>Total</span> <b id="sum">${money(total)}</b></p>
            <button formaction="/cart/clear" class="clear">Clear the cart</button></div>` : ""}
        </div></form>
      </div>
    </section>
  </div>
</main>
</body>
</html>
`;
}
