// Plots in SVG: drawn anew from the numbers each second, in the pixels of their places; colours come from the stylesheet.

const SVG = "http://www.w3.org/2000/svg";

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const round = (number) => Math.round(number * 10) / 10;

function path(points) {
  return points.map(([x, y], index) => `${index ? "L" : "M"}${round(x)} ${round(y)}`).join("");
}

/** Round numbers that divide an axis up to `most`: its top and its step. */
export function steps(most, count = 4) {
  const raw = Math.max(most, 1e-9) / count;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * size >= raw * 0.999) * size;
  return { step, top: Math.max(Math.ceil((most / step) * 0.999), 1) * step };
}

export function number(value) {
  if (value === 0) return "0";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${Math.round(value / 1e3)}k`;
  if (value >= 1e3) return `${Number((value / 1e3).toFixed(1))}k`;
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(value < 0.1 ? 2 : 1);
}

/** Seconds, in the unit that suits. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 0.9995) return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
  const milliseconds = seconds * 1000;
  if (milliseconds >= 0.9995) return `${milliseconds.toFixed(milliseconds < 9.95 ? 1 : 0)} ms`;
  return `${Math.max(Math.round(seconds * 1e6), seconds > 0 ? 1 : 0)} µs`;
}

/** Where a moment of the last `span` seconds stands, from the left. */
export function placed(at, now, span, left, width) {
  return left + width * (1 - (now - at) / span);
}

/** A small line of what has been, without axes. */
export function spark(svg, values, width, height, { most = 0, className = "" } = {}) {
  const top = Math.max(most, ...values, 1e-9);
  const step = width / Math.max(values.length - 1, 1);
  const points = values.map((value, index) => [index * step, height - 2 - (height - 5) * (value / top)]);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren();
  if (points.length < 2) return;
  svg.append(
    draw("path", { class: `area ${className}`, d: `${path(points)}L${width} ${height}L0 ${height}Z` }),
    draw("path", { class: `line ${className}`, d: path(points), "vector-effect": "non-scaling-stroke" }),
  );
}

function timeAxis(svg, frame, span) {
  const { left, width, height, bottom } = frame;
  for (let ago = 0; ago <= span; ago += width < 300 ? 60 : 30) {
    const x = left + width * (1 - ago / span);
    const anchor = ago === 0 ? "end" : ago === span ? "start" : "middle";
    const text = ago === 0 ? "now" : `${ago} s ago`;
    svg.append(draw("text", { x: round(x), y: height + bottom - 3, "text-anchor": anchor }, text));
  }
}

function frameOf(place, { left = 40, bottom = 20, top = 6 }) {
  const { width, height } = place.getBoundingClientRect();
  return { left, top, bottom, width: Math.max(width - left, 10), height: Math.max(height - bottom, 10) };
}

function begin(place, label) {
  let svg = place.querySelector("svg");
  if (!svg) place.append((svg = draw("svg", { role: "img" })));
  svg.setAttribute("aria-label", label);
  svg.replaceChildren();
  return svg;
}

function cursor(svg, place, frame, at, now, span) {
  if (at === null) return;
  const x = placed(at, now, span, frame.left, frame.width);
  if (x >= frame.left) svg.append(draw("line", { class: "cursor", x1: x, x2: x, y1: frame.top, y2: frame.height }));
}

/** Answers per second with the failures at their foot. */
export function rates(place, past, { now, span, at }) {
  const frame = frameOf(place, {});
  const { left, top: head, width, height } = frame;
  const last = past.at(-1);
  const svg = begin(place, last ? `${number(last.ok)} answered and ${number(last.failed)} failed per second now` : "");
  const { step, top } = steps(Math.max(...past.map(({ ok, failed }) => ok + failed), 1));
  const y = (value) => height - (height - head) * (value / top);
  for (let value = 0; value <= top * 1.001; value += step) {
    svg.append(
      draw("line", { class: "grid", x1: left, x2: left + width, y1: round(y(value)), y2: round(y(value)) }),
      draw("text", { x: left - 8, y: round(y(value)) + 4, "text-anchor": "end" }, number(value)),
    );
  }
  timeAxis(svg, frame, span);
  const shown = past.filter(({ at }) => now - at <= span);
  if (shown.length > 1) {
    const x = (snapshot) => placed(snapshot.at, now, span, left, width);
    const line = (value) => shown.map((snapshot) => [x(snapshot), y(value(snapshot))]);
    const foot = `L${round(x(shown.at(-1)))} ${height}L${round(x(shown[0]))} ${height}Z`;
    const all = line(({ ok, failed }) => ok + failed);
    svg.append(draw("path", { class: "area", d: path(all) + foot }), draw("path", { class: "line", d: path(all) }));
    if (shown.some(({ failed }) => failed > 0)) {
      const failed = line((snapshot) => snapshot.failed);
      svg.append(
        draw("path", { class: "area failed", d: path(failed) + foot }),
        draw("path", { class: "line failed", d: path(failed) }),
      );
    }
  }
  cursor(svg, place, frame, at, now, span);
}

/** How many calls took how long, second by second: the more, the darker. The bounds are those of the histogram. */
export function heat(place, past, bounds, { now, span, at }) {
  const frame = frameOf(place, { left: 48 });
  const { left, top, width, height } = frame;
  const svg = begin(place, "Latency of the calls of each second");
  const rows = bounds.length + 1;
  const row = (height - top) / rows;
  const y = (index) => height - row * (index + 1);
  const marks = new Map([[0.0001, "100 µs"], [0.001, "1 ms"], [0.01, "10 ms"], [0.1, "100 ms"], [1, "1 s"], [10, "10 s"]]);
  bounds.forEach((bound, index) => {
    const mark = marks.get(bound);
    if (!mark) return;
    svg.append(
      draw("line", { class: "grid", x1: left, x2: left + width, y1: round(y(index)), y2: round(y(index)) }),
      draw("text", { x: left - 8, y: round(y(index)) + 4, "text-anchor": "end" }, mark),
    );
  });
  timeAxis(svg, frame, span);
  const shown = past.filter(({ at }) => now - at < span);
  const most = Math.max(1, ...shown.flatMap((snapshot) => snapshot.heat));
  const column = Math.max(width / span, 1);
  for (const snapshot of shown) {
    const x = placed(snapshot.at, now, span, left, width) - column;
    snapshot.heat.forEach((count, index) => {
      if (!count || x < left - 1) return;
      // By the logarithm: one slow call beside ten thousand quick ones is what one looks for.
      const depth = 0.16 + 0.84 * (Math.log1p(count) / Math.log1p(most));
      const cell = { x: round(x), y: round(y(index)), width: round(column * 0.92), height: round(row * 0.9), rx: 1 };
      svg.append(draw("rect", { class: "cell", "fill-opacity": depth.toFixed(2), ...cell }));
    });
  }
  cursor(svg, place, frame, at, now, span);
}

const [SHORTEST, LONGEST] = [5e-6, 10];

/** Where a time stands on the common scale of all methods, from 0 to 1. */
export function onScale(seconds) {
  const share = Math.log(seconds / SHORTEST) / Math.log(LONGEST / SHORTEST);
  return Math.min(Math.max(share, 0), 1);
}

/** The common scale itself, and thin lines of it behind each method. */
export function scale(svg, width, { labels = false, height = 24 } = {}) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  for (const [seconds, text] of [[1e-5, "10 µs"], [1e-4, "100 µs"], [1e-3, "1 ms"], [1e-2, "10 ms"], [0.1, "100 ms"], [1, "1 s"]]) {
    const x = round(6 + (width - 12) * onScale(seconds));
    if (labels) svg.append(draw("text", { x, y: height - 5, "text-anchor": "middle" }, text));
    else svg.append(draw("line", { class: "grid", x1: x, x2: x, y1: 0, y2: height }));
  }
}

/** From what half of the calls took at most, to what 99 of 100 did. */
export function whisker(svg, width, { p50, p99 }) {
  scale(svg, width);
  if (p50 === null) return;
  const x = (seconds) => round(6 + (width - 12) * onScale(seconds));
  svg.append(
    draw("line", { class: "range", x1: x(p50), x2: x(p99), y1: 12, y2: 12 }),
    draw("circle", { class: "middle", cx: x(p50), cy: 12, r: 4.5 }),
  );
}

/** A bar behind a row: `share` of its width. */
export function bar(share) {
  const width = `${(Math.min(Math.max(share, 0), 1) * 100).toFixed(1)}%`;
  return draw("svg", { "aria-hidden": "true" }, draw("rect", { class: "bar", width, height: "100%" }));
}

/** Moments in lanes: `lanes` are names, `moments` have `at`, `lane` and a title. */
export function lanes(place, names, moments, { now, span, className, label }) {
  const frame = { ...frameOf(place, { left: Math.max(...names.map((name) => name.length)) * 6.6 + 12 }), height: 0 };
  frame.height = names.length * 22;
  const svg = begin(place, label);
  svg.setAttribute("height", frame.height + frame.bottom);
  names.forEach((name, index) => {
    const y = index * 22 + 11;
    svg.append(
      draw("line", { class: "grid", x1: frame.left, x2: frame.left + frame.width, y1: y, y2: y }),
      draw("text", { x: 0, y: y + 4 }, name),
    );
  });
  timeAxis(svg, frame, span);
  for (const { at, lane, title } of moments) {
    if (now - at > span || !names.includes(lane)) continue;
    // What came after the last snapshot stands at its end.
    const cx = round(placed(Math.min(at, now), now, span, frame.left, frame.width - 5));
    const dot = { cx, cy: names.indexOf(lane) * 22 + 11, r: 4.5, class: className(lane) };
    svg.append(draw("circle", dot, draw("title", {}, title)));
  }
}
