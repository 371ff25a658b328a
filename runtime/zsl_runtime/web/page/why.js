// Why a photograph has its label: what each attribute says, and where the model looked for it.

import { ask } from "./ask.js";
import { el, fill, number, percent } from "./parts.js";

const SHOWN = 8; // attributes; the others are added up
const MAPS = 4;
const DARK = 200; // of 255, where the model did not look at all
const HALF = 0.5; // of the most: there runs the line, which shows a map on what is dark itself as well
const FINER = 4; // points of the line for each region
const PLACES = [
  ["upper left", "upper middle", "upper right"],
  ["left", "middle", "right"],
  ["lower left", "lower middle", "lower right"],
];
const redraw = { call: () => {} };

export const onToggle = (call) => {
  redraw.call = call;
};

export function whyButton(one) {
  const toggle = () => {
    one.why = !one.why;
    redraw.call(one);
    one.card.querySelector(".ask-why").focus();
  };
  return el("button", {
    type: "button",
    class: "ask-why",
    text: "Why?",
    "aria-expanded": String(Boolean(one.why)),
    "aria-label": `Why is ${one.name} labelled so?`,
    onclick: toggle,
  });
}

/** What is known of it; asked for anew whenever the classes are other ones. */
export function whyPanel(one) {
  const panel = el(
    "div",
    { class: "why", role: "group", "aria-label": `Why ${one.name} is labelled so` },
    el("p", { role: "status", text: "is being looked at again ..." }),
  );
  one.file
    .arrayBuffer()
    .then((data) => ask("explain", new Blob([data]), one.name))
    .then(
      (found) => fill(panel, ...told(one, found)),
      (error) => fill(panel, el("p", { class: "error", text: error.message })),
    );
  return panel;
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function told(one, found) {
  if (!found.rival) return [el("p", { text: `There is no other class that ${found.answer} could be compared with.` })];
  const shown = found.spoken.slice(0, SHOWN);
  const rest = found.spoken.slice(SHOWN).reduce((sum, each) => sum + each.contribution, 0) + (found.others ?? 0);
  const count = found.count - shown.length;
  const most = Math.max(...shown.map((each) => Math.abs(each.contribution)), 1e-9);
  const head = ["Attribute", "Says", "", "Read here", found.answer, found.rival];
  const sums = [
    count > 0 ? [`${count} other attributes together`, rest] : null,
    ["What no attribute tells", found.rest],
    found.seen_handicap ? ["Handicap of classes seen in training", found.seen_handicap] : null,
    ["Together", found.difference],
  ].filter(Boolean);
  return [
    el("h4", { text: `Why ${found.answer} and not ${found.rival}` }),
    el("p", {
      class: "quiet",
      text: [
        `${found.answer} has ${percent(found.probability)},`,
        `its strongest rival ${found.rival} ${percent(found.rival_probability)}.`,
        `Contributions are in log-probability: each 0.7 for ${found.answer} doubles its odds against ${found.rival},`,
        "each −0.7 halves them.",
      ].join(" "),
    }),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "What each attribute says" },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...head.map(heading))),
        el("tbody", {}, ...shown.map((each) => row(each, found, most))),
        el(
          "tfoot",
          {},
          ...sums.map(([text, value]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row", text }),
              el("td", { class: "number", text: signed(value) }),
              el("td", { colspan: 4 }),
            ),
          ),
        ),
      ),
    ),
    ...maps(one, found),
  ];
}

/** The column of bars says what the one before it says. */
const heading = (text) =>
  text ? el("th", { scope: "col", class: text === "Attribute" ? null : "number", text }) : el("td");

function row(each, found, most) {
  const bar = el("span", { class: each.contribution < 0 ? "against" : "for" });
  bar.style.width = `${(100 * Math.abs(each.contribution)) / most}%`;
  const told = [each.read, each.answer, each.rival].map((value) =>
    el("td", { class: "number", text: number(Number(value.toFixed(2))) }),
  );
  return el(
    "tr",
    {},
    el("th", { scope: "row", text: each.label }),
    el("td", { class: "number", text: signed(each.contribution) }),
    el("td", {}, el("span", { class: "says", "aria-hidden": "true" }, bar)),
    ...told,
  );
}

/** The attributes that speak most for the answer, each with the photograph lit where the model looked. */
function maps(one, found) {
  if (!found.maps)
    return [el("p", { class: "quiet", text: "This model has no attention, so there are no maps of where it looked." })];
  const some = found.spoken.filter((each) => each.contribution > 0 && found.maps[each.attribute]).slice(0, MAPS);
  if (!some.length) return [];
  return [
    el("h4", { text: "Where the model looked for them" }),
    el("p", {
      class: "quiet",
      text:
        "Bright is where it looked, within the line at least half as much as where most: mostly on the whole thing, " +
        "not always on the part.",
    }),
    el("div", { class: "maps" }, ...some.map((each) => figure(one, each, found.maps[each.attribute]))),
  ];
}

function figure(one, each, map) {
  const canvas = el("canvas", {
    width: 260,
    height: 260,
    role: "img",
    "aria-label": `${each.label}: looked for mostly at the ${place(map)} of ${one.name}`,
  });
  const photograph = new Image();
  photograph.onload = () => light(canvas, photograph, map);
  photograph.src = one.preview;
  return el("figure", {}, canvas, el("figcaption", { text: `${each.label}: mostly ${place(map)}` }));
}

/** The photograph, dark where the model did not look, and the map's line. */
function light(canvas, photograph, map) {
  const side = map.length;
  const most = Math.max(...map.flat(), 1e-12);
  const shade = document.createElement("canvas");
  shade.width = shade.height = side;
  const pixels = new ImageData(side, side);
  map.flat().forEach((value, k) => {
    // The root, for attention is steep, and the bird must be seen.
    pixels.data[4 * k + 3] = DARK * (1 - Math.sqrt(value / most));
  });
  shade.getContext("2d").putImageData(pixels, 0, 0);
  const drawing = canvas.getContext("2d");
  drawing.drawImage(photograph, 0, 0, canvas.width, canvas.height);
  drawing.imageSmoothingQuality = "high";
  drawing.drawImage(shade, 0, 0, canvas.width, canvas.height);
  const pieces = ring(map, most);
  const strokes = [
    [8, "black"],
    [4, "white"],
  ];
  for (const [width, colour] of strokes) {
    Object.assign(drawing, { lineWidth: width, strokeStyle: colour, lineCap: "round" });
    drawing.beginPath();
    for (const [[x, y], [right, below]] of pieces) {
      drawing.moveTo(x * canvas.width, y * canvas.height);
      drawing.lineTo(right * canvas.width, below * canvas.height);
    }
    drawing.stroke();
  }
}

/** The line within which a map is at least HALF of its most, piece by piece, in shares of the side. */
export function ring(map, most) {
  const side = FINER * map.length;
  const at = (index) => Math.min(Math.max((index + 0.5) / FINER - 0.5, 0), map.length - 1);
  const between = (line, where) => {
    const low = Math.floor(where);
    return line[low] + (where - low) * ((line[low + 1] ?? line[low]) - line[low]);
  };
  const value = (x, y) => between(map.map((line) => between(line, at(x))), at(y)) / most - HALF;
  const values = [...Array(side)].map((_, y) => [...Array(side)].map((__, x) => value(x, y)));
  const pieces = [];
  for (let y = 0; y + 1 < side; y++) {
    for (let x = 0; x + 1 < side; x++) {
      const around = [
        [x, y],
        [x + 1, y],
        [x + 1, y + 1],
        [x, y + 1],
        [x, y],
      ];
      const crossings = [];
      for (let k = 0; k < 4; k++) {
        const [[left, top], [right, below]] = [around[k], around[k + 1]];
        const [one, other] = [values[top][left], values[below][right]];
        if (one >= 0 === other >= 0) continue;
        const part = one / (one - other);
        crossings.push([(left + part * (right - left) + 0.5) / side, (top + part * (below - top) + 0.5) / side]);
      }
      for (let k = 0; k + 1 < crossings.length; k += 2) pieces.push([crossings[k], crossings[k + 1]]);
    }
  }
  return pieces;
}

/** Which ninth of the picture has most of the map, in words. */
function place(map) {
  const side = map.length;
  const sums = [0, 0, 0].map(() => [0, 0, 0]);
  map.forEach((line, y) =>
    line.forEach((value, x) => {
      sums[Math.floor((3 * y) / side)][Math.floor((3 * x) / side)] += value;
    }),
  );
  const best = Math.max(...sums.flat());
  const row = sums.findIndex((line) => line.includes(best));
  return PLACES[row][sums[row].indexOf(best)];
}
