// The panel Chat: two rooms with their history and who is there, direct words, and what was said while we were away.
import { $, $$, clock, excuse, say } from "./dom.js";

const HISTORY = 50; // lines that the server keeps of a room
const TYPING = 2; // seconds between two words of it

export function startChat(s) {
  let user = $("#chat").dataset.user;
  const rooms = new Map($$("[name=room]").map(({ value }) => [value, new Room(s, value)]));
  const shown = () => rooms.get($("[name=room]:checked").value);

  // Subscriptions come back by themselves after a lost connection, and end with the session.
  s.on("connected", () => rooms.forEach((room) => room.enter().catch(ignoreLoss)));
  s.on("whispered", (from, to, text, at) => shown().add({ from, to, text, at }));
  document.addEventListener("session", ({ detail: view }) => {
    if (user && view?.user !== user) rooms.forEach((room) => room.forgetWhispers()); // who comes next is somebody else
    user = view?.user ?? "";
    mayTalk();
  });
  s.on("state", mayTalk);

  for (const choice of $$("[name=room]")) {
    choice.addEventListener("change", () => rooms.forEach((room) => room.show(room === shown())));
  }
  rooms.forEach((room) => room.show(room === shown()));

  const { to, text } = $("#say").elements;

  $("#say").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = text.value.trim();
    if (!words) return;
    const said = to.value ? s.rpc.chat.whisper(to.value, words) : s.rpc.chat.say(shown().name, words);
    said.then(() => (text.value = ""), excuse);
  });

  let toldAt = -Infinity; // not 0: the page itself may be younger than TYPING
  text.addEventListener("input", () => {
    if (to.value || performance.now() - toldAt < TYPING * 1000) return;
    toldAt = performance.now();
    s.notify("chat.typing", [shown().name]);
  });

  function mayTalk() {
    text.disabled = !user;
    text.placeholder = user ? "Say something" : "Log in to talk";
    $("#say button").disabled = !user || s.state !== "connected";
    rooms.forEach((room) => room.setUser(user));
    shown().showPeople();
  }
}

class Room {
  #user = "";
  #channel;
  #log;
  #unread;
  #seen = {}; // the last line shown, as {offset, epoch}
  #count = 0; // of lines shown
  #people = [];
  #isShown = false;
  #quiet;

  constructor(s, name) {
    this.name = name;
    this.#log = $(`#log-${name}`);
    this.#unread = $(`[value=${name}] + span .unread`);
    this.#channel = s.channel(name);
    this.#channel.on("*", (event, args, meta) => {
      if (event === "said") this.#said(args, meta);
      else this.#look().catch(ignoreLoss); // somebody came or went
    });
    this.#channel.on("gap", () => this.#note("What was said before is not kept any more."));
    const typing = s.channel(`${name}.typing`);
    typing.on("typing", (who) => this.#typing(who));
    s.on("connected", () => typing.subscribe().catch(ignoreLoss));
  }

  async enter() {
    const isFirst = this.#channel.position === null;
    const before = this.#count;
    const { offset, epoch } = await this.#channel.subscribe(); // with all that was said since our position
    const missed = this.#count - before;
    if (isFirst && offset > 0) await this.#channel.subscribe({ since: { offset: Math.max(0, offset - HISTORY), epoch } });
    else if (missed > 0) this.#note(`Back again, with ${missed === 1 ? "one line" : `${missed} lines`} that came meanwhile.`);
    await this.#look();
  }

  show(isShown) {
    this.#isShown = isShown;
    this.#log.hidden = !isShown;
    if (!isShown) return;
    this.#unread.hidden = true;
    this.#unread.textContent = "";
    this.#log.scrollTop = this.#log.scrollHeight;
    $("#typing").textContent = "";
    this.showPeople();
  }

  showPeople() {
    if (!this.#isShown) return;
    $("#people").replaceChildren(...(this.#people.length ? this.#people.map(chip) : ["Nobody is here yet."]));
    const select = $("#say").elements.to;
    const chosen = select.value;
    const others = this.#people.filter((name) => name !== this.#user);
    select.replaceChildren(new Option("everybody", ""), ...others.map((name) => new Option(name, name)));
    select.value = others.includes(chosen) ? chosen : "";
  }

  /** Who sits here from now on; null or "" for nobody. What he said is marked as his. */
  setUser(user) {
    this.#user = user;
    for (const line of $$("[data-from]", this.#log)) this.#mark(line);
  }

  add({ from, to, text, at }) {
    this.#count++;
    const line = element("li", { className: to ? "whisper" : "" });
    line.dataset.from = from;
    this.#mark(line);
    const head = element("span", { className: "head" });
    head.append(element("b", { textContent: from }), to ? ` to ${to} alone` : "", " ");
    head.append(element("time", { textContent: clock(at), dateTime: new Date(at * 1000).toISOString() }));
    line.append(head, element("span", { className: "text", textContent: text }));
    this.#append(line);
  }

  forgetWhispers() {
    for (const line of $$(".whisper", this.#log)) line.remove();
  }

  #said([from, text, at], { offset, epoch }) {
    // A line may come again: when we enter anew, from the beginning.
    if (this.#seen.epoch === epoch && offset <= this.#seen.offset) return;
    this.#seen = { offset, epoch };
    this.add({ from, text, at });
    if (this.#isShown) $("#typing").textContent = "";
    else {
      this.#unread.hidden = false;
      this.#unread.textContent = Number(this.#unread.textContent) + 1;
    }
  }

  #mark(line) {
    line.classList.toggle("mine", line.dataset.from === this.#user);
  }

  #typing(who) {
    if (!this.#isShown || who === this.#user) return;
    $("#typing").textContent = `${who} is typing`;
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => ($("#typing").textContent = ""), 1500 * TYPING);
  }

  #note(text) {
    this.#append(element("li", { className: "note", textContent: text }));
  }

  #append(line) {
    this.#log.append(line);
    while (this.#log.children.length > 4 * HISTORY) this.#log.firstChild.remove();
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  async #look() {
    this.#people = (await this.#channel.presence()).map(({ user }) => user);
    this.showPeople();
  }
}

const element = (tag, properties) => Object.assign(document.createElement(tag), properties);
const chip = (name) => element("span", { className: "chip", textContent: name });

// Whoever loses the connection does it again with the next one.
function ignoreLoss(error) {
  if (error.name !== "ClosedError") say(`The chat does not work: ${error.message}.`);
}
