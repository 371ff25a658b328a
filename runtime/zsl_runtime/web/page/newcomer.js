// Adding a class: sliders for its attributes, or a table, and photographs of it.

import { ask } from "./ask.js";
import { byId, el, number, patiently, plural, wrong } from "./parts.js";
import { Pile, foresee, known, onPage } from "./photographs.js";

const PAUSE = 300; // milliseconds after the last move until the consequences are asked for
const OPEN = 60; // attributes up to which all groups are open
const EMPTY = "nothing: every attribute as low as it goes";
let about, pile, rows, timer, changed;
let asked = 0;
let touched = false;
let asking = false;
let several = [];

export function begin(given, onChanged) {
  about = given;
  changed = onChanged;
  buildSliders();
  if (about.teachable) {
    pile = new Pile(
      byId("add-photographs"),
      "Photographs of it, if there are some",
      "drop one or a few here, or press",
      () => {
        offer(null);
        move();
      },
    );
  }
  byId("filter").addEventListener("input", filter);
  byId("name").addEventListener("input", () => {
    wrong(byId("name-error"), "", byId("name"));
    if (touched) rehearseSoon();
  });
  byId("start").addEventListener("change", beginWith);
  byId("add").addEventListener("submit", (event) => {
    event.preventDefault();
    add();
  });
  byId("read-csv").addEventListener("click", () => readTable(byId("csv").value, ""));
  byId("choose-csv").addEventListener("click", () => byId("csv-file").click());
  byId("csv-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) readTable(file, file.name);
    event.target.value = "";
  });
  byId("csv").addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    event.stopPropagation();
    readTable(file, file.name);
  });
  byId("save-csv").addEventListener("click", save);
}

// --- sliders -----------------------------------------------------------------------------------------------------

function buildSliders() {
  const groups = new Map();
  about.sliders.forEach((slider, place) => {
    if (!groups.has(slider.group)) groups.set(slider.group, []);
    groups.get(slider.group).push(place);
  });
  rows = [];
  const plain = groups.size === 1;
  let serial = 0;
  for (const [name, places] of groups) {
    const made = places.map(sliderRow);
    const title = name || (plain ? "attributes" : "others");
    const id = `group-${(serial += 1)}`;
    const summary = el(
      "summary",
      {},
      el("span", { id, text: title }),
      el("span", { class: "quiet", text: ` ${places.length}` }),
    );
    const group = el("div", { role: "group", "aria-labelledby": id }, ...made);
    byId("sliders").append(el("details", { open: about.sliders.length <= OPEN }, summary, group));
  }
  filter();
}

function sliderRow(place) {
  const slider = about.sliders[place];
  const id = `slider-${place}`;
  const input = el("input", { type: "range", id, min: slider.bottom, max: slider.top, step: "any" });
  const value = el("output", { for: id });
  const range =
    slider.low < slider.high ? `${number(slider.low)} to ${number(slider.high)}` : `always ${number(slider.low)}`;
  const row = el(
    "div",
    { class: "slider", title: `${slider.name}: in training ${range}` },
    el("label", { for: id, text: slider.label }),
    input,
    value,
  );
  const show = () => {
    value.textContent = number(Number(input.value));
    input.setAttribute("aria-valuetext", `${value.textContent}, in training ${range}`);
  };
  // The page shows three digits; what is added is what a class has, unless its slider was moved.
  rows[place] = {
    row,
    slider,
    value: slider.bottom,
    set(exact) {
      this.value = exact;
      input.value = exact;
      show();
      if (exact < slider.bottom || exact > slider.top) value.textContent = number(exact);
    },
  };
  input.addEventListener("input", () => {
    rows[place].value = Number(Number(input.value).toPrecision(6));
    show();
    several = [];
    move();
  });
  rows[place].set(Math.min(Math.max(0, slider.bottom), slider.top));
  return row;
}

const values = () => rows.map((one) => one.value);

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const { row, slider } of rows) {
    const text = `${slider.name} ${slider.group} ${slider.label}`.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  for (const group of byId("sliders").children) {
    group.hidden = !group.querySelector(".slider:not([hidden])");
    if (words.length) group.open = !group.hidden;
  }
  byId("filter-count").textContent = words.length ? `${shown} of ${rows.length}` : plural(rows.length, "attribute");
}

/** Offer classes to begin with: those that photographs on the page have, then all. */
export function offer(classes) {
  const select = byId("start");
  const before = select.value;
  const near = [
    ...new Set(
      known(onPage)
        .concat(pile?.photographs ?? [])
        .map((one) => one.answer.classes[0].name),
    ),
  ];
  const all = classes ?? [...select.querySelectorAll("[data-all] option")].map((option) => option.value);
  const group = (label, names, more = {}) =>
    el("optgroup", { label, ...more }, ...names.map((name) => el("option", { value: name, text: name })));
  select.replaceChildren(
    el("option", { value: "", text: EMPTY }),
    ...(near.length ? [group("labels on this page", near)] : []),
    group("all classes", all, { "data-all": true }),
  );
  select.value = all.includes(before) ? before : "";
}

async function beginWith() {
  const name = byId("start").value;
  wrong(byId("add-error"), "");
  several = [];
  if (!name) {
    for (const one of rows) one.set(Math.min(Math.max(0, one.slider.bottom), one.slider.top));
    move();
    return;
  }
  try {
    setValues((await ask("row", { name })).values);
  } catch (error) {
    wrong(byId("add-error"), error.message);
  }
}

function setValues(given) {
  given.forEach((value, place) => rows[place].set(value));
  move();
}

// --- what it would do --------------------------------------------------------------------------------------------

function move() {
  touched = true;
  rehearseSoon();
}

function rehearseSoon() {
  clearTimeout(timer);
  timer = setTimeout(rehearse, PAUSE);
}

const newcomers = () =>
  several.length ? several : [{ name: byId("name").value.trim() || "the new class", values: values() }];
const evidence = () => (pile?.photographs.length && !several.length ? { [newcomers()[0].name]: pile.digests } : {});

/** Ask what adding would do, one question at a time; what comes late is dropped. */
async function rehearse() {
  const mine = (asked += 1);
  if (asking) return; // it is asked again at the end of the one before
  asking = true;
  await rehearseOnce(mine);
  asking = false;
  if (mine !== asked && touched) rehearse();
}

async function rehearseOnce(mine) {
  const place = byId("rehearsed");
  try {
    const given = {
      classes: newcomers(),
      photographs: evidence(),
      on_page: [...new Set(known(onPage).map((one) => one.digest))],
    };
    const found = await ask("rehearse", given);
    if (mine !== asked) return;
    place.replaceChildren(el("h3", { text: "If it is added" }), ...lines(found.said), ...lines(found.notes, "warning"));
    place.hidden = false;
    foresee(found.labels);
  } catch (error) {
    if (mine !== asked) return;
    const calm = ["E-ATTRIBUTE-ZERO", "E-PAGE-FORGOTTEN"].includes(error.code);
    place.replaceChildren(...(calm ? [] : lines([error.message], "error")));
    place.hidden = calm;
    foresee(null);
  }
}

const MOST_LINES = 12;
export function lines(texts, sort = "") {
  const shown = texts
    .slice(0, MOST_LINES)
    .map((text) => el("p", { class: sort }, sort === "warning" ? el("b", { text: "Note: " }) : null, text));
  if (texts.length > MOST_LINES) shown.push(el("p", { class: "quiet", text: `and ${texts.length - MOST_LINES} more` }));
  return shown;
}

/** After a change of the classes: what was worked out before holds no more. */
export function settle(classes) {
  offer(classes);
  if (touched) rehearseSoon();
}

// --- adding ------------------------------------------------------------------------------------------------------

async function add() {
  const field = byId("name");
  wrong(byId("add-error"), "");
  if (!several.length && !field.value.trim()) {
    wrong(byId("name-error"), "Give the class a name.", field);
    field.focus();
    return;
  }
  const button = byId("add-button");
  button.setAttribute("aria-disabled", "true");
  if (button.dataset.busy) return;
  button.dataset.busy = "yes";
  try {
    const call = () => ask("add", { classes: newcomers(), photographs: evidence() });
    const made = await patiently("Is being added ...", pile ? pile.with(call) : call());
    clearTimeout(timer);
    asked += 1;
    touched = false;
    several = [];
    field.value = "";
    byId("rehearsed").hidden = true;
    byId("csv-found").replaceChildren();
    pile?.clear();
    clearTimeout(timer);
    await changed(made);
  } catch (error) {
    const named = ["E-CLASS-NAME", "E-CLASS-EXISTS", "E-CLASS-DUPLICATE"].includes(error.code) && !several.length;
    wrong(named ? byId("name-error") : byId("add-error"), error.message, named ? field : null);
    if (named) field.focus();
  } finally {
    delete button.dataset.busy;
    button.removeAttribute("aria-disabled");
  }
}

// --- tables ------------------------------------------------------------------------------------------------------

async function readTable(data, name) {
  const place = byId("csv-found");
  place.replaceChildren();
  several = [];
  try {
    const found = await ask("table", data, name);
    wrong(byId("csv-error"), "", byId("csv"));
    place.append(...lines(found.notes, "warning"));
    if (found.classes.length === 1) use(found.classes[0]);
    else offerAll(found.classes);
  } catch (error) {
    wrong(byId("csv-error"), error.message, byId("csv"));
    byId("csv").focus();
  }
}

function use(one) {
  byId("name").value = one.name;
  wrong(byId("name-error"), "", byId("name"));
  several = [];
  setValues(one.values);
  byId("csv-found").append(el("p", { role: "status", text: `${one.name}: its values are on the sliders.` }));
}

function offerAll(classes) {
  const together = el("button", {
    type: "button",
    text: `Add all ${classes.length} classes`,
    onclick: () => {
      several = classes;
      add();
    },
  });
  byId("csv-found").append(
    el("p", { role: "status", text: `The table has ${plural(classes.length, "class", "classes")}.` }),
    el(
      "ul",
      { class: "plain" },
      ...classes
        .slice(0, 50)
        .map((one) =>
          el(
            "li",
            {},
            `${one.name} `,
            el("button", {
              type: "button",
              text: "To the sliders",
              "aria-label": `${one.name} to the sliders`,
              onclick: () => use(one),
            }),
          ),
        ),
    ),
    el("p", { class: "row" }, together),
  );
}

/** The values as a file that zsl-classes add takes, too. */
function save() {
  const cell = (text) =>
    (/^[=+\-@]/.test(text) ? `'${text}` : text).replace(/^(.*[",\n].*)$/s, (all) => `"${all.replaceAll('"', '""')}"`);
  const name = byId("name").value.trim() || "NEW CLASS";
  const text = [
    ["name", ...about.sliders.map((one) => one.name)].map(cell).join(","),
    [cell(name), ...values()].join(","),
  ].join("\n");
  const address = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
  el("a", { href: address, download: `${name.replace(/[^\p{L}\p{N} _-]/gu, "_")}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
