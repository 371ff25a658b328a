// The page of zsl-demo: puts its parts together, and looks now and then whether somebody else changed the classes.

import { ask, changing } from "./ask.js";
import * as classes from "./classes.js";
import * as newcomer from "./newcomer.js";
import { byId, plural, say, takeElsewhere, wrong } from "./parts.js";
import * as photographs from "./photographs.js";

const LOOK = 2000; // milliseconds between two looks
let generation = 0;
let following = 0; // changes that the page is just taking over
let about;

async function begin() {
  about = await ask("about");
  document.title = `${about.bundle} – zsl-demo`;
  byId("bundle").textContent = about.bundle;
  byId("mode").textContent = about.trial
    ? `Changes are made in a copy, which is removed when zsl-demo ends; ${about.path} stays as it is.`
    : `Changes are made in the bundle ${about.path}, for everybody who uses it. Each can be undone.`;
  if (about.teachable) photographs.settings.teach = classes.teachWith;
  photographs.settings.changed = () => newcomer.offer(null);
  photographs.begin(about);
  newcomer.begin(about, changed);
  classes.begin(about, changed);
  takeElsewhere(photographs.put);
  await refresh();
  setTimeout(look, LOOK);
}

/** Show classes and changes as they are now. */
async function refresh() {
  const state = await ask("state");
  generation = state.generation;
  classes.show(state);
  newcomer.settle(state.classes.map((one) => one.name));
  const of = (kind) => state.classes.filter((one) => one.kind === kind).length;
  const added = of("added") ? `, ${of("added")} added` : "";
  byId("facts").textContent = [
    `${plural(state.classes.length, "class", "classes")}:`,
    `${of("seen")} seen in training, ${of("unseen")} unseen${added}.`,
    `${plural(about.sliders.length, "attribute")}. Runs on ${about.runs}.`,
    "Photographs stay on this machine, in memory.",
    about.explains ? "" : "This bundle cannot say why: it was exported without a read-out of attributes.",
  ].join(" ");
  wrong(byId("closed"), state.closed ? `The classes cannot be changed: ${state.closed}.` : "");
  for (const id of ["add-button", "teach-button"]) byId(id).disabled = Boolean(state.closed);
}

/** After a change: what the page shows follows, and it is said. Null where somebody else made it. */
async function changed(made) {
  following += 1;
  try {
    await follow(made);
  } finally {
    following -= 1;
  }
}

async function follow(made) {
  await refresh();
  const { all, changed: others } = await photographs.relabel(true);
  const have = ["none has", "one has"][others] ?? `${others} have`;
  const labels = all
    ? ` Of ${plural(all, "photograph")} on the page ${have} another label now.`
    : "";
  if (!made) {
    say(`Another tab or program changed the classes.${labels}`);
    return;
  }
  const told = [...made.said.slice(0, 3), ...made.notes.slice(0, 2).map((note) => `Note: ${note}`)].map(sentence);
  const rest = made.said.length > 3 ? [`And ${made.said.length - 3} more.`] : [];
  // After an undo there is no button: one that undoes more would look as if it brought this back.
  say([...told, ...rest].join(" ") + labels, made.undone ? null : () => classes.back(1));
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

async function look() {
  try {
    if (!document.hidden) {
      const state = await ask(`state?known=${generation}`);
      if (state.generation > generation && !changing.count && !following) await changed(null);
      wrong(byId("trouble"), "");
    }
  } catch (error) {
    trouble(error);
  }
  setTimeout(look, LOOK);
}

function trouble(error) {
  if (byId("trouble").textContent !== error.message) wrong(byId("trouble"), error.message);
}

for (const button of document.querySelectorAll(".skip")) {
  button.addEventListener("click", () => byId(button.dataset.to).focus()); // not a link: the address holds the key
}
byId("hush").addEventListener("click", () => {
  byId("bar").hidden = true;
});
begin().catch(trouble);
