// The panel Session: what is in it, who wrote it last, how long it lives; logging in, a new id, and the end.
import { $, $$, excuse, glow, say } from "./dom.js";

let endsAt = performance.now() + Number($("#session").dataset.ttl) * 1000;

export function startSession(s) {
  // The server sends the view on open, and whenever anybody else wrote: another tab, a page, Express, another server.
  s.on("session", showSession);

  const acts = {
    renew: async () => {
      const old = $("#id").textContent;
      showSession(await s.rpc.session.renew());
      say(`The session gets a new id, and ${old} is dead.`);
    },
    end: () => s.rpc.session.end(),
    end_others: async () => say(others(await s.rpc.session.end_others())),
  };
  for (const button of $$("[data-act]")) {
    button.addEventListener("click", () => acts[button.dataset.act]().catch(excuse));
  }

  // The same two forms go as forms, or by websocket.
  byWebsocket($("#login"), async ({ name, password }) => {
    showSession(await s.rpc.session.log_in(name.value, password.value));
    password.value = "";
    say(`Welcome, ${name.value}. The session has a new id.`);
  });
  byWebsocket($("#logout"), () => s.rpc.session.end());

  if (!$("#session").hidden) tick();
  setInterval(tick, 1000);
}

function byWebsocket(form, send) {
  form.addEventListener("submit", (event) => {
    if (event.submitter.value !== "websocket") return;
    event.preventDefault();
    send(form.elements).catch(excuse);
  });
}

const others = (count) => `${count || "No"} other ${count === 1 ? "session" : "sessions"} of yours ${count === 1 ? "was" : "were"} ended.`;

/** Show a view of the session, null for none; the other panels hear of it as the page's event `session`. */
export function showSession(view) {
  const part = document.activeElement.closest(".account, .facts");
  $("#none").hidden = view !== null;
  $("#session").hidden = view === null;
  $("#login").hidden = Boolean(view?.user);
  $("#logout").hidden = !view?.user;
  $("#end-others").hidden = !view?.user;
  $("#user-name").textContent = view?.user ?? "";
  const writer = view?.data.lastWriter;
  for (const door of $$("[data-writer]")) {
    if (door.dataset.writer === writer) door.setAttribute("aria-current", "true");
    else door.removeAttribute("aria-current");
  }
  if (view) {
    const id = `${view.id}…`;
    const data = JSON.stringify(view.data, null, 2);
    if ($("#data").textContent !== data || $("#id").textContent !== id) glow($(`[data-writer="${writer}"]`));
    $("#id").textContent = id;
    $("#data").textContent = data;
    endsAt = performance.now() + view.ttl * 1000;
    tick();
  }
  // Whoever pressed a button that is hidden now goes on at the one that took its place.
  if (part?.hidden) $(".account:not([hidden]) :is(label input, button)").focus();
  document.dispatchEvent(new CustomEvent("session", { detail: view }));
}

function tick() {
  const left = Math.max(0, Math.round((endsAt - performance.now()) / 1000));
  const clock = new Date((left % 86400) * 1000).toISOString().slice(11, 19);
  const days = Math.floor(left / 86400);
  $("#ttl").textContent = `${days} ${days === 1 ? "day" : "days"}, ${clock}`;
}
