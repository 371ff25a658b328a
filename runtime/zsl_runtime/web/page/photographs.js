// Photographs on the page: each is looked at once and then known by its digest. The files stay in the browser.

import { Told, ask } from "./ask.js";
import { byId, chance, dropZone, el, fill, percent, plural, say, wrong } from "./parts.js";
import { onToggle, whyButton, whyPanel } from "./why.js";

const AT_ONCE = 2; // that are sent at the same time
const limits = { most: 200, bytes: 32 * 2 ** 20 };
const waiting = [];
let sending = 0;

/** Photograph: {file, name, digest, preview, answer, error, before, would}. Those with a card: */
export const onPage = [];
export const settings = { about: null, teach: null, changed: () => {} };

export function begin(about) {
  settings.about = about;
  onToggle(draw);
  limits.most = about.most_photographs;
  limits.bytes = about.most_bytes;
  byId("drop").append(dropZone("Drop photographs here", "or paste them, or press to choose files", put));
  byId("clear").addEventListener("click", () => {
    onPage.length = 0;
    byId("cards").replaceChildren();
    count();
    byId("drop").querySelector("button").focus();
  });
}

/** Put files on the page, each with a card. */
export function put(files) {
  const room = limits.most - onPage.length;
  if (files.length > room)
    say(
      `The page holds ${plural(limits.most, "photograph")} at most; ${files.length - Math.max(room, 0)} were left out.`,
    );
  for (const file of files.slice(0, Math.max(room, 0))) {
    const one = { file, name: file.name || "pasted picture", card: el("li", { class: "card" }) };
    onPage.push(one);
    byId("cards").append(one.card);
    draw(one);
    lookAt(one).then(() => {
      draw(one);
      count();
      settings.changed();
      if (!sending && !waiting.length) tell();
    });
  }
  count();
}

/** Have a photograph looked at, in its turn; what is wrong with it becomes its `error`. */
export function lookAt(one) {
  return new Promise((done) => {
    waiting.push({ one, done });
    next();
  });
}

async function next() {
  if (sending >= AT_ONCE || !waiting.length) return;
  const { one, done } = waiting.shift();
  sending += 1;
  try {
    if (one.file.size > limits.bytes)
      throw new Told(
        "E-PAGE-SIZE",
        `this is larger than the ${limits.bytes / 2 ** 20} MiB that are taken; make it smaller first`,
      );
    const found = await ask("photograph", await bytesOf(one.file), one.name);
    Object.assign(one, {
      digest: found.digest,
      preview: found.preview,
      answer: found.labels[found.digest],
      generation: found.generation,
      error: null,
    });
  } catch (error) {
    one.error = error.message;
  }
  sending -= 1;
  done(one);
  next();
}

/** The content of a file; a browser gives it no more where the file was changed or removed since it was dropped. */
export async function bytesOf(file) {
  try {
    return new Blob([await file.arrayBuffer()]);
  } catch {
    throw new Told("E-PAGE-FILE", "the browser cannot read this file, or no longer; drop it again", 0);
  }
}

function tell() {
  const good = onPage.filter((one) => one.answer);
  const bad = onPage.filter((one) => one.error).length;
  const single = good.length === 1 ? `: ${best(good[0]).name}, ${percent(best(good[0]).probability)}` : "";
  const rest = bad ? `; ${bad} cannot be labelled, see why at each` : "";
  say(`${plural(good.length, "photograph")} labelled${single}${rest}.`);
}

const best = (one) => one.answer.classes[0];
export const known = (pile) => pile.filter((one) => one.digest && !one.error);

/** Ask anew for the labels of all photographs on the page; how many of them have another label now. */
export async function relabel(compare) {
  const pile = known(onPage);
  if (!pile.length) return { all: 0, changed: 0 };
  const found = await ask("labels", { photographs: [...new Set(pile.map((one) => one.digest))] });
  let changed = 0;
  for (const one of pile) {
    const before = one.answer;
    if (found.labels[one.digest]) one.answer = found.labels[one.digest];
    else await lookAt(one); // zsl-demo has forgotten it, or was started again
    one.would = null;
    one.before = compare && before ? before.classes[0] : null;
    if (one.before && best(one).name !== one.before.name) changed += 1;
    draw(one);
  }
  return { all: pile.length, changed };
}

/** Show what labels would be; null takes that away. */
export function foresee(labels) {
  for (const one of known(onPage)) {
    one.would = labels?.[one.digest]?.classes[0] ?? null;
    const place = one.card.querySelector(".would");
    if (place) foretell(place, one);
  }
}

function foretell(place, one) {
  place.hidden = !one.would;
  if (one.would)
    place.textContent = `With the class described here: ${one.would.name}, ${percent(one.would.probability)}`;
}

function draw(one) {
  const { card } = one;
  const title = el("h3", { text: one.name, title: one.name });
  if (one.error) {
    card.className = "card bad";
    card.replaceChildren(
      title,
      el("p", { class: "error", text: one.error }),
      el("p", { class: "row" }, offButton(one)),
    );
    return;
  }
  if (!one.answer) {
    card.replaceChildren(title, el("p", { class: "quiet", text: "is being looked at ..." }));
    return;
  }
  const top = best(one);
  const would = el("p", { class: "would", hidden: true });
  foretell(would, one);
  card.className = one.before && one.before.name !== top.name ? "card changed" : "card";
  fill(
    card,
    title,
    el("img", { src: one.preview, alt: `${one.name}, the square that the model sees`, width: 260, height: 260 }),
    before(one, top),
    el("ol", { class: "chances", "aria-label": "Labels, the most probable first" }, ...one.answer.classes.map(chance)),
    far(one.answer),
    would,
    el("p", { class: "row" }, settings.about.explains ? whyButton(one) : null, teachButton(one), offButton(one)),
    one.why ? whyPanel(one) : null,
  );
  card.classList.toggle("wide", Boolean(one.why));
}

/** How far from everything: what is unlike anything known gets a label all the same, and that is said. */
function far(answer) {
  if (answer.distance === null || answer.distance === undefined) return null;
  const away = `${answer.distance.toFixed(2)} standard deviations from ${answer.nearest}, the nearest class`;
  if (!answer.far) return el("p", { class: "quiet", text: away });
  const { percent: share, distance } = settings.about.far;
  return el(
    "p",
    { class: "far" },
    el("b", { text: "Unlike anything known: " }),
    `${away}; ${share} % of held-out photographs were within ${distance.toFixed(2)}. Do not trust the label.`,
  );
}

function before(one, top) {
  if (!one.before) return null;
  const was = `${one.before.name}, ${percent(one.before.probability)}`;
  if (one.before.name !== top.name)
    return el("p", { class: "before" }, el("b", { text: "Label changed" }), `: before it was ${was}`);
  return el("p", { class: "before same", text: `Same label: before the change ${percent(one.before.probability)}` });
}

function teachButton(one) {
  if (!settings.teach) return null;
  return el("button", {
    type: "button",
    text: "Teach",
    "aria-label": `Teach with ${one.name}`,
    onclick: () => settings.teach(one),
  });
}

function offButton(one) {
  const off = () => {
    const place = onPage.indexOf(one);
    onPage.splice(place, 1);
    one.card.remove();
    count();
    const neighbour = onPage[Math.min(place, onPage.length - 1)];
    (neighbour ? neighbour.card.querySelector(".off") : byId("drop").querySelector("button"))?.focus();
  };
  return el("button", {
    type: "button",
    class: "off",
    text: "Take off",
    "aria-label": `Take ${one.name} off the page`,
    onclick: off,
  });
}

function count() {
  byId("pile").hidden = !onPage.length;
  byId("pile-count").textContent = plural(onPage.length, "photograph");
}

/** A drop zone for photographs of one class, with what was dropped below it. */
export class Pile {
  constructor(place, label, hint, changed) {
    this.photographs = [];
    this.list = el("ul", { class: "thumbs", "aria-label": "Photographs of the class" });
    this.problem = el("p", { class: "error", role: "alert", hidden: true });
    this.changed = changed;
    this.zone = dropZone(label, hint, (files) => this.put(files));
    place.append(this.zone, this.problem, this.list);
  }

  async put(files) {
    const all = files.map((file) => ({ file, name: file.name || "pasted picture" }));
    await Promise.all(all.map(lookAt));
    const bad = all.filter((one) => one.error);
    wrong(this.problem, bad.map((one) => `${one.name}: ${one.error}`).join(" "));
    for (const one of known(all)) this.take(one);
  }

  /** Take a photograph that was looked at; the same one counts once. */
  take(one) {
    if (!this.photographs.some((other) => other.digest === one.digest)) this.photographs.push(one);
    this.draw();
    this.changed();
  }

  draw() {
    this.list.replaceChildren(
      ...this.photographs.map((one) =>
        el(
          "li",
          {},
          el("img", { src: one.preview, alt: one.name, title: one.name, width: 64, height: 64 }),
          this.offButton(one),
        ),
      ),
    );
  }

  offButton(one) {
    const off = () => {
      this.photographs.splice(this.photographs.indexOf(one), 1);
      this.draw();
      this.changed();
      (this.list.querySelector("button") ?? this.zone.querySelector("button")).focus();
    };
    return el("button", { type: "button", text: "Off", "aria-label": `Take ${one.name} off`, onclick: off });
  }

  get digests() {
    return this.photographs.map((one) => one.digest);
  }

  clear() {
    this.photographs = [];
    this.draw();
    wrong(this.problem, "");
  }

  /** Do what needs these photographs; once more where zsl-demo has forgotten them. */
  async with(call) {
    try {
      return await call();
    } catch (error) {
      if (error.code !== "E-PAGE-FORGOTTEN") throw error;
      await Promise.all(this.photographs.map(lookAt));
      return call();
    }
  }
}
