// What every panel needs of the page.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

let quiet;

/** Tell what just happened, wherever on the page one is; screen readers hear it too. */
export function say(text) {
  $("#notice").textContent = text;
  $("#notice").classList.add("up");
  clearTimeout(quiet);
  quiet = setTimeout(() => $("#notice").classList.remove("up"), 6000);
}

/** Tell what went wrong with a call. */
export const excuse = (error) => say(`That did not work: ${error.message}.`);

/** Let an element shine for a moment. */
export function glow(element) {
  element?.classList.remove("fresh");
  element?.getBoundingClientRect(); // makes the browser see the class go, so that the animation starts anew
  element?.classList.add("fresh");
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
