// The panel Wire: the last frames, how long a round trip takes, a thousand calls, and what a lost connection does.
import { decode } from "/_sstream/vendor/msgpack.js";
import { $, excuse } from "./dom.js";
import { cut, listenIn, mend } from "./tap.js";

const FRAMES = 12; // as many are shown
const BYTES = 56; // of each
const LETTERS = 160;
const TRIPS = 60;
const PAUSE = 2; // seconds between two round trips
const AWAY = 20; // seconds that a dropped socket stays away, unless it is let back
const CALLS = 1000;
const AT_ONCE = 8;

const KINDS = ["call", "reply", "event", "cancel", "item", "more"]; // by the first element of a message

export function startWire(s) {
  listenIn(showFrame);
  s.on("connected", async () => {
    $("#server").textContent = await server();
    measure();
  });
  s.on("waiting", () => ($("#server").textContent = "nowhere"));

  const server = () => s.rpc.wire.server().then((name) => `server ${name}`, () => "nowhere");

  const measure = () => {
    if (s.state === "connected" && !document.hidden) trip().then(showTrip, () => {}); // a lost one is no round trip
  };
  setInterval(measure, PAUSE * 1000);

  const trip = async () => {
    const begun = performance.now();
    await s.rpc.wire.echo(null);
    return performance.now() - begun;
  };

  $("#drop").addEventListener("click", drop);
  $("#thousand").addEventListener("click", () => thousand().catch(excuse));

  let back;

  function drop() {
    clearTimeout(back);
    const isAway = $("#drop").classList.toggle("pressed");
    $("#drop").textContent = isAway ? "Let it come back" : "Drop my socket";
    if (isAway) {
      cut();
      back = setTimeout(drop, AWAY * 1000);
    } else {
      mend();
      s.open();
    }
  }

  async function thousand() {
    const times = [];
    let begun = 0;
    const lane = async () => {
      while (begun++ < CALLS) times.push(await trip());
    };
    const start = performance.now();
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    const seconds = (performance.now() - start) / 1000;
    times.sort((a, b) => a - b);
    const percentile = (share) => milliseconds(times[Math.ceil(CALLS * share) - 1]);
    $("#p50").textContent = percentile(0.5);
    $("#p99").textContent = percentile(0.99);
    $("#rate").textContent = Math.round(CALLS / seconds).toLocaleString("en");
  }
}

const milliseconds = (time) => `${time.toFixed(time < 10 ? 1 : 0)} ms`;

// ---- the round trips

const trips = [];

function showTrip(time) {
  trips.push(time);
  if (trips.length > TRIPS) trips.shift();
  $("#round-trip").textContent = milliseconds(time);
  const highest = Math.max(2, ...trips);
  const points = trips.map((each, i) => {
    const x = 240 - ((trips.length - 1 - i) * 240) / (TRIPS - 1);
    return `${x.toFixed(1)},${(46 - (each / highest) * 42).toFixed(1)}`;
  });
  const first = points[0].split(",")[0];
  $("#sparkline .line").setAttribute("d", `M${points.join("L")}`);
  $("#sparkline .area").setAttribute("d", `M${first},48L${points.join("L")}L240,48Z`);
  $("#sparkline").setAttribute("aria-label", `Round trips of the last two minutes, ${milliseconds(time)} now`);
}

// ---- the frames

const echoes = new Set(); // ids of the calls that measure, not shown

function showFrame(way, data) {
  const bytes = new Uint8Array(data);
  const message = decode(bytes);
  const [type, id, method] = message;
  if (type === 0 && method === "wire.echo") return void echoes.add(id);
  if (type === 1 && way === "received" && echoes.delete(id)) return;
  const isSecret = type === 0 && method === "session.log_in";
  if (isSecret) message[3] = [message[3][0], "•••"];

  const row = $("#frame").content.cloneNode(true);
  $("li", row).dataset.way = way;
  $(".way", row).textContent = `${way === "sent" ? "→" : "←"} ${KINDS[type] ?? type}, ${bytes.length} B`;
  $(".decoded", row).textContent = shorten(JSON.stringify(message, plain), LETTERS);
  $(".bytes", row).textContent = isSecret ? "there is a password in them" : hex(bytes);
  $("#frames").prepend(row);
  $("#frames").children[FRAMES]?.remove();
}

const plain = (key, value) => (typeof value === "bigint" ? Number(value) : value);
const shorten = (text, length) => (text.length > length ? `${text.slice(0, length)}…` : text);

function hex(bytes) {
  const shown = [...bytes.subarray(0, BYTES)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return bytes.length > BYTES ? `${shown} …` : shown;
}
