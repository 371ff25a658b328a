// The classes, what was changed, teaching, removing and undoing.

import { ask } from "./ask.js";
import { byId, el, kind, patiently, plural, wrong } from "./parts.js";
import { Pile } from "./photographs.js";

const MOST_ROWS = 400; // that are shown at a time
const WORDS = { add: "Added", teach: "Taught", remove: "Removed", refit: "Fitted the head again" };
let about, state, pile, changed;

export function begin(given, onChanged) {
  about = given;
  changed = onChanged;
  byId("class-filter").addEventListener("input", showClasses);
  byId("teach").hidden = !about.teachable;
  byId("unteachable").hidden = about.teachable;
  if (!about.teachable) return;
  pile = new Pile(byId("teach-photographs"), "Photographs of it", "drop one or a few here, or press", () =>
    wrong(byId("teach-error"), ""),
  );
  byId("teach").addEventListener("submit", (event) => {
    event.preventDefault();
    teach();
  });
}

export function show(given) {
  state = given;
  showClasses();
  showSteps();
  const select = byId("teach-name");
  const before = select.value;
  const added = state.classes.filter((one) => one.kind === "added");
  const others = state.classes.filter((one) => one.kind !== "added");
  const group = (label, some) =>
    some.length
      ? [el("optgroup", { label }, ...some.map((one) => el("option", { value: one.name, text: one.name })))]
      : [];
  select.replaceChildren(...group("added", added), ...group("exported", others));
  if (state.classes.some((one) => one.name === before)) select.value = before;
}

function showClasses() {
  const words = byId("class-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = state.classes.filter((one) =>
    words.every((word) => `${one.name} ${one.kind}`.toLowerCase().includes(word)),
  );
  const newest = [
    ...found.filter((one) => one.kind === "added").reverse(),
    ...found.filter((one) => one.kind !== "added"),
  ];
  byId("class-rows").replaceChildren(...newest.slice(0, MOST_ROWS).map(classRow));
  const cut = found.length > MOST_ROWS ? `; the first ${MOST_ROWS} are shown` : "";
  byId("class-count").textContent = `${found.length} of ${plural(state.classes.length, "class", "classes")}${cut}`;
}

function classRow(one) {
  const remove = el("button", {
    type: "button",
    text: "Remove",
    "aria-label": `Remove ${one.name}`,
    disabled: Boolean(state.closed),
    onclick: () => make("remove", { names: [one.name] }, "classes"),
  });
  return el(
    "tr",
    {},
    el("th", { scope: "row", text: one.name }),
    el("td", {}, kind(one.kind)),
    el("td", { class: "number", text: one.photographs ?? "–" }),
    el("td", {}, remove),
  );
}

function showSteps() {
  byId("no-changes").hidden = state.steps.length > 0;
  byId("steps").replaceChildren(
    ...state.steps.map((step, place) => {
      const what = told(step);
      const text = place === 0 ? "Undo this" : `Undo this and the ${place} above`;
      const undo = el("button", {
        type: "button",
        text,
        "aria-label": `${text}: ${what}`,
        disabled: Boolean(state.closed),
        onclick: () => back(place + 1),
      });
      return el(
        "li",
        {},
        el("span", { text: what }),
        step.when
          ? el("time", { datetime: step.when, class: "quiet", text: new Date(step.when).toLocaleString() })
          : null,
        undo,
      );
    }),
  );
}

/** What a change did, in words. */
function told(step) {
  const shown = step.names.slice(0, 3).map((name) => {
    const count = step.photographs[name];
    return count ? `${name} (${plural(count, "photograph")})` : name;
  });
  const rest = step.names.length > 3 ? ` and ${step.names.length - 3} more` : "";
  return `${WORDS[step.action] ?? step.action} ${shown.join(", ")}${rest}`.trim();
}

/** Undo the last changes, newest first. */
export const back = (count) => make("undo", { generation: state.generation, count }, "changes");

async function make(path, given, section) {
  wrong(byId("changes-error"), "");
  try {
    const made = await patiently("Is being done ...", ask(path, given));
    await changed({ ...made, undone: path === "undo" });
    byId(`${section}-title`).focus();
  } catch (error) {
    wrong(byId("changes-error"), error.message);
    byId("changes-error").scrollIntoView({ block: "nearest" });
    if (error.code === "E-PAGE-CHANGED") await changed(null);
  }
}

/** Bring a photograph of the page to the form that teaches. */
export function teachWith(one) {
  pile.take(one);
  byId("teach-name").value = one.answer.classes[0].name;
  byId("teach-name").focus();
  byId("teaching").scrollIntoView({ block: "nearest" });
}

async function teach() {
  const button = byId("teach-button");
  if (button.dataset.busy) return;
  if (!pile.photographs.length) {
    wrong(byId("teach-error"), "Drop at least one photograph of the class.");
    pile.zone.querySelector("button").focus();
    return;
  }
  button.dataset.busy = "yes";
  try {
    const call = () => ask("teach", { photographs: { [byId("teach-name").value]: pile.digests } });
    const made = await patiently("Is being taught ...", pile.with(call));
    pile.clear();
    await changed(made);
  } catch (error) {
    wrong(byId("teach-error"), error.message);
  } finally {
    delete button.dataset.busy;
  }
}
