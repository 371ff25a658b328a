// Small parts of the page: elements, numbers in words, drop zones, messages.

/** An element: properties that begin with "on" are listeners, `text` is its text, others are attributes. */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Let an element hold these children alone; null is none. */
export function fill(place, ...children) {
  place.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

export const byId = (id) => document.getElementById(id);

/** A share as a person reads it: never "100 %" of what is not, nor "0 %". */
export function percent(share) {
  const hundred = 100 * share;
  if (hundred > 0 && hundred < 0.1) return "< 0.1 %";
  if (hundred > 99.9) return "> 99.9 %";
  return `${hundred.toFixed(hundred < 10 ? 1 : 0)} %`;
}

/** At most three digits behind the point. */
export const number = (value) => String(Number(value.toPrecision(6).includes("e") ? value : Number(value).toFixed(3)));

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** Say what happened, below on the page and to screen readers. */
export function say(text, undo = null) {
  byId("said").textContent = text;
  byId("bar").hidden = false;
  const button = byId("quick-undo");
  button.hidden = !undo;
  button.onclick = undo;
}

const PATIENCE = 500; // milliseconds after which it is said that something is still going on

/** Wait for an answer, and say so where it takes a while: some heads are fitted anew. */
export async function patiently(text, answer) {
  const timer = setTimeout(() => say(text), PATIENCE);
  try {
    return await answer;
  } catch (error) {
    if (byId("said").textContent === text) byId("bar").hidden = true; // what went wrong is said at its place
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Show what is wrong at its place, or nothing; `field` is told about it. */
export function wrong(place, message, field = null) {
  place.textContent = message;
  place.hidden = !message;
  if (field) {
    if (message) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}

const DEEPEST = 8; // folders in folders
const MOST_FILES = 2000; // that are looked for in folders

/** Files that were dropped or pasted, those of folders included; hidden ones of folders are left out. */
async function filesOf(transfer) {
  const plain = [...(transfer?.files ?? [])];
  // At once: when the event is over there are none.
  const entries = [...(transfer?.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return plain;
  const found = [];
  for (const entry of entries) await collect(entry, found, 0);
  return found.sort((one, other) => one.name.localeCompare(other.name));
}

async function collect(entry, found, depth) {
  if (found.length >= MOST_FILES || depth > DEEPEST || (depth && entry.name.startsWith("."))) return;
  if (entry.isFile) {
    found.push(await new Promise((done, fail) => entry.file(done, fail)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return;
    for (const one of some) await collect(one, found, depth + 1);
  }
}

/** Hand the files to `take`, and say so where the browser does not give them. */
async function handOver(transfer, take) {
  try {
    take(await filesOf(transfer));
  } catch {
    say("The browser cannot read what was dropped.");
  }
}

/** A button that takes photographs: pressed it lets choose files, and they can be dropped on it. */
export function dropZone(label, hint, take) {
  const input = el("input", {
    type: "file",
    multiple: true,
    accept: "image/*,.tif,.tiff,.jp2,.j2k,.avif",
    hidden: true,
    tabindex: "-1",
    "aria-label": label,
  });
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = "";
  });
  const button = el(
    "button",
    { type: "button", class: "drop", onclick: () => input.click() },
    el("b", { text: label }),
    el("span", { text: hint }),
  );
  let depth = 0;
  const over = (by) => {
    depth = Math.max(0, depth + by);
    button.classList.toggle("over", depth > 0);
  };
  button.addEventListener("dragenter", () => over(1));
  button.addEventListener("dragleave", () => over(-1));
  button.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    over(-depth);
    handOver(event.dataTransfer, take);
  });
  return el("div", {}, button, input);
}

/** What is dropped beside the zones, or pasted anywhere, is handed to `take`. */
export function takeElsewhere(take) {
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  document.addEventListener("drop", (event) => handOver(event.dataTransfer, take));
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) take([...event.clipboardData.files]);
  });
}

/** A name that may be broken behind its underscores. */
export const breakable = (name) => name.split(/(?<=_)/).flatMap((part, place) => (place ? [el("wbr"), part] : [part]));

/** Class and probability with a bar of that length. */
export function chance(one) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span"));
  bar.firstChild.style.width = `${100 * one.probability}%`;
  return el(
    "li",
    {},
    el("span", { class: "name" }, ...breakable(one.name)),
    kind(one.kind),
    el("span", { class: "percent", text: percent(one.probability) }),
    bar,
  );
}

/** Whether a class is seen, unseen or added, as a word in a frame. */
export const kind = (word) => el("span", { class: `kind ${word}`, text: word });
