"use strict";
// Text enters as text, never as markup.
(() => {
const root = document.documentElement;
root.classList.add("js");
const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const fill = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const shape = (name, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
const on = (node, event, run) => node.addEventListener(event, run);
const press = (selector, run) => all(selector).forEach((node) => on(node, "click", () => run(node)));

const dark = matchMedia("(prefers-color-scheme: dark)");
let redraw = () => {};
press("#theme", () => {
  root.dataset.theme = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
  redraw();
});
on(dark, "change", () => redraw());

const data = JSON.parse($("data").textContent), D = data.suspects;
if (!D) return;

// Columns: an array type and base64; its largest number stands for none, here -1.
const TYPES = { Uint8Array, Uint16Array, Uint32Array };
const column = ([type, text]) => {
  const none = new TYPES[type]([-1])[0], bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return Int32Array.from(new TYPES[type](bytes.buffer), (value) => (value === none ? -1 : value));
};
const [index, x, y, score, label, suggestion, forgotten, flags, pred, prob] = [
  "index", "x", "y", "score", "label", "suggestion", "forgotten", "flags", "pred", "prob",
].map((name) => column(D[name]));
const N = index.length, P = D.epochs.length, ONE = 10000;
const named = (one) => (one < 0 ? "?" : D.names[one] || `${one}`);
const idOf = (row) => (D.ids && D.ids[row]) || String(index[row]);
const textOf = (row) => (D.text && D.text[row]) || "";
const brief = (text) => (text.length > 30 ? text.slice(0, 11) + "…" + text.slice(-18) : text);
const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
const scored = (row) => (score[row] < 0 ? "-" : (score[row] / 1e6).toFixed(3));
const r = (number) => number.toFixed(2);
const whole = (number) => number.toLocaleString("en-US");
const certain = (row) => flags[row] & 1;

// Cells of a strip, as in _strips.py: 0 not seen, 1 label, 2 another class, 3 suggestion.
const KINDS = [[1, "f-label", 4], [2, "f-other", 8], [3, "f-suggestion", 12]];
const kind = (row, pass) => {
  const one = pred[row * P + pass];
  return one < 0 ? 0 : one === suggestion[row] ? 3 : one === label[row] ? 1 : 2;
};
const cells = (row, left, top, width, height) => {
  const step = width / P, wide = r(step * (P > 60 ? 1 : 0.86));
  return KINDS.map(([wanted, style, high]) => {
    const tall = (height * high) / 12;
    let d = "";
    for (let pass = 0; pass < P; pass++)
      if (kind(row, pass) === wanted) d += `M${r(left + step * pass)} ${top + height}v${-tall}h${wide}v${tall}z`;
    return shape("path", { d: d || "M0 0", class: style });
  });
};
const strip = (row) => {
  if (row >= D.detailed) return make("span", { class: "faint" }, "not in this page");
  const n = [0, 0, 0, 0];
  for (let pass = 0; pass < P; pass++) n[kind(row, pass)]++;
  const words = `${n[1]} times the label, ${n[3]} times the suggestion, ${n[2]} times another class`;
  return shape("svg", {
    class: "strip", viewBox: `0 0 ${P} 12`, width: Math.min(P * 16, 480), preserveAspectRatio: "none", role: "img",
    "aria-label": words + (n[0] ? `, ${n[0]} times not seen` : ""),
  }, ...cells(row, 0, 0, P, 12));
};
const picture = (row, style) => {
  const S = data.sprite, place = S && S.place[index[row]];
  if (place === undefined) return "";
  const across = place % S.columns, down = (place - across) / S.columns;
  return shape("svg", {
    class: style, viewBox: `0 0 ${S.tile} ${S.tile}`, role: "img", "aria-label": `picture of sample ${idOf(row)}`,
  }, shape("use", { href: "#sprite", x: -across * S.tile, y: -down * S.tile }));
};

const PAGE = 25, KEYS = { sample: index, score: [...index.keys()], forgotten };
const heads = all(".suspects thead th").map((th) => th.className.match(/c-(\w+)/)[1]);
let view = [], page = 0, picked = 0, sortKey = "score", down = false, box = null, sure = false;
const choose = () => {
  const [one, other] = ["label", "suggestion"].map((id) => $("filter-" + id).value);
  const [x0, y0, x1, y1] = box || [-1, -1, ONE, ONE];
  view = [];
  for (let row = 0; row < N; row++)
    if ((one === "" || label[row] === +one) && (other === "" || suggestion[row] === +other) &&
        (!sure || certain(row)) && x[row] >= x0 && x[row] <= x1 && y[row] >= y0 && y[row] <= y1) view.push(row);
  const values = KEYS[sortKey], sign = down ? -1 : 1;
  view.sort((a, b) => sign * (values[a] - values[b]) || a - b);
  page = 0;
  show();
  redraw();
};
const td = (style, child) => make("td", { class: style }, child);
const CELLS = {
  picture: (row) => td("picture-cell", picture(row, "thumb")),
  sample: (row) => td("sample", make("button", { type: "button", class: "pick", title: idOf(row) }, brief(idOf(row)))),
  label: (row) => td("label", named(label[row])),
  suggestion: (row) => td("suggestion",
    make("span", { class: "suggested" + (certain(row) ? " certain" : "") }, named(suggestion[row]))),
  snippet: (row) => td("snippet-cell", make("span", { class: "snippet" }, textOf(row))),
  score: (row) => td("score number", scored(row)),
  forgotten: (row) => td("forgotten number", forgotten[row]),
  strip: (row) => td("strip-cell", strip(row)),
};
const show = () => {
  const first = page * PAGE, rows = view.slice(first, first + PAGE);
  $("suspect-rows").replaceChildren(...rows.map((row) => {
    const tr = make("tr", { class: row === picked ? "picked" : "" }, ...heads.map((name) => CELLS[name](row)));
    on(tr, "click", ({ target }) => {
      pick(row);
      if (target.matches(".pick")) $("sample").scrollIntoView();
    });
    return tr;
  }));
  $("count").textContent = `${whole(view.length)} of ` +
    (D.complete ? whole(N) : `the ${whole(N)} worst of ${whole(D.total)}`) + " samples";
  $("range").textContent = view.length ? `${whole(first + 1)} to ${whole(first + rows.length)}` : "none";
  $("before").disabled = !page;
  $("next").disabled = first + PAGE >= view.length;
  $("clear").classList.toggle("hidden", !box);
};
const turn = (by) => { page += by; show(); $("suspects").scrollIntoView(); };
press("#before", () => turn(-1));
press("#next", () => turn(1));
const mark = () => all("th[data-sort]").forEach((th) => {
  const [order, arrow] = th.dataset.sort !== sortKey ? ["none", ""] : down ? ["descending", " ↓"] : ["ascending", " ↑"];
  th.setAttribute("aria-sort", order);
  th.firstChild.textContent = th.dataset.title + arrow;
});
all("th[data-sort]").forEach((th) => {
  th.dataset.title = th.textContent;
  th.replaceChildren(make("button", { type: "button" }));
  on(th.firstChild, "click", () => {
    const { sort } = th.dataset;
    down = sortKey === sort ? !down : sort === "forgotten";
    sortKey = sort;
    mark();
    choose();
  });
});
for (const [id, values] of Object.entries({ label, suggestion })) {
  const classes = [...new Set(values)].filter((one) => one >= 0).sort((a, b) => a - b);
  $("filter-" + id).append(...classes.map((one) => make("option", { value: one }, named(one))));
  on($("filter-" + id), "change", choose);
}
press("#certain", (button) => {
  sure = !sure;
  button.setAttribute("aria-pressed", sure);
  choose();
});

// CSV as of `suspects --csv`, without formulas.
const quoted = (value) => {
  const text = (typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" : "") + value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const both = (one) => (one < 0 ? ["", ""] : [one, D.names[one] || ""]);
const truth = (bit) => (bit ? "True" : "False");
press("#csv", () => {
  const lines = ["index,sample_id,given_label,given_name,predicted_label,predicted_name,label_score,is_label_issue,disagrees,forgetting_events"];
  for (const row of view)
    lines.push([index[row], (D.ids && D.ids[row]) || "", ...both(label[row]), ...both(suggestion[row]),
      score[row] < 0 ? "" : score[row] / 1e6, truth(certain(row)), truth(flags[row] & 2), forgotten[row],
    ].map(quoted).join(","));
  const href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  make("a", { href, download: "suspects.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
});


const pick = (row) => {
  picked = row;
  all("#suspect-rows tr").forEach((tr, place) => tr.classList.toggle("picked", view[page * PAGE + place] === row));
  const known = row < D.detailed;
  let right = 0, seen = 0;
  for (let pass = 0; known && pass < P; pass++) {
    seen += pred[row * P + pass] >= 0;
    right += pred[row * P + pass] === label[row];
  }
  const facts = {
    name: idOf(row), label: named(label[row]), suggestion: named(suggestion[row]), score: scored(row), text: textOf(row),
    forgotten: forgotten[row] + (forgotten[row] === 1 ? " time" : " times"),
    right: known ? `in ${right} of ${seen} passes` : "not in this page",
  };
  for (const fact in facts) if ($("sample-" + fact)) $("sample-" + fact).textContent = facts[fact];
  $("sample-picture").replaceChildren(picture(row, "picture"));
  all("g.course").forEach((group) => course(group, row, known));
  path(row);
  redraw();
};
const course = (group, row, known) => {
  const [left, inside, top, base] = group.dataset.plot.split(" ").map(Number), step = inside / P, names = [];
  let d = "", pen = false;
  for (let pass = 0; known && pass < P; pass++) {
    const value = prob[row * P + pass], one = pred[row * P + pass], middle = left + step * (pass + 0.5);
    if (value >= 0)
      d += `${pen ? "L" : "M"}${middle.toFixed(2)} ${(base - ((base - top) * value) / 250).toFixed(2)}${pen ? "" : "h.1"}`;
    pen = value >= 0;
    const words = one < 0 ? "" : cut(named(one), Math.max(Math.floor(step / 7), 2));
    names.push(shape("text", { x: middle, y: base + 42, "text-anchor": "middle", class: "muted" }, words));
  }
  group.querySelector(".line").setAttribute("d", d || "M0 0");
  group.querySelector(".cells").replaceChildren(...(known ? cells(row, left, base + 10, inside, 18) : []));
  if (P <= 20 && group.closest(".wide")) group.querySelector(".names").replaceChildren(...names);
};
// Its learning path: the triangle of _learning_paths.py.
const path = (row) => {
  if (!$("simplex")) return;
  const found = data.sample.paths[row], SIDE = 176, HIGH = (SIDE * Math.sqrt(3)) / 2, points = [];
  $("simplex").classList.toggle("hidden", !found);
  const values = found ? column(found) : [];
  for (let time = 0; time < values.length; time += 2) {
    const other = values[time + 1] / 250, rest = Math.max(0, 1 - values[time] / 250 - other);
    points.push(`${r(14 + SIDE * (other + rest / 2))} ${r(20 + HIGH * (1 - rest))}`);
  }
  $("simplex-path").setAttribute("d", "M" + (points.join("L") || "0 0"));
};
press(".jump", (button) => pick(+button.dataset.row));

// The map: points on a canvas over the visible chart.
const canvas = $("map-canvas"), pen = canvas.getContext("2d");
redraw = () => {
  const plot = all(".map .plot").find((rect) => rect.getBoundingClientRect().width);
  const outer = canvas.parentNode.getBoundingClientRect(), { left, top, width, height } = plot.getBoundingClientRect();
  const scale = devicePixelRatio;
  Object.assign(canvas.style, {
    left: `${left - outer.left}px`, top: `${top - outer.top}px`, width: `${width}px`, height: `${height}px`,
  });
  Object.assign(canvas, { width: width * scale, height: height * scale });
  pen.scale(scale, scale);
  const across = (value) => (value / ONE) * width, down = (value) => (1 - value / ONE) * height;
  const size = Math.max(1.3, Math.min(3.4, 220 / Math.sqrt(N))), chosen = new Uint8Array(N);
  for (const row of view) chosen[row] = 1;
  for (const layer of [0, 1, 2, 3]) {
    pen.fillStyle = getComputedStyle(all(".map-keys circle")[1 - (layer & 1)]).fill;
    pen.globalAlpha = [0.1, 0.1, Math.min(0.9, 0.3 + 900 / N), 0.9][layer];
    const w = size + (layer & 1);
    for (let row = 0; row < N; row++)
      if (certain(row) + 2 * chosen[row] === layer && x[row] >= 0)
        pen.fillRect(across(x[row]) - w / 2, down(y[row]) - w / 2, w, w);
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = getComputedStyle(document.body).color;
  pen.lineWidth = 1.6;
  pen.beginPath();
  pen.arc(across(x[picked]), down(y[picked]), 7, 0, 7);
  pen.stroke();
  pen.setLineDash([5, 4]);
  if (box) {
    const [x0, y0, x1, y1] = box;
    pen.strokeRect(across(x0), down(y1), across(x1 - x0), height - down(y1 - y0));
  }
};
const boxOf = ({ dataset }) => (dataset.region ? dataset.region.split(" ").map(Number) : null);
const select = (next) => {
  box = next;
  all(".region").forEach((button) => button.setAttribute("aria-pressed", String(box) === String(boxOf(button))));
  choose();
};
press("[data-region]", (button) => select(boxOf(button)));
const limit = (value) => Math.min(ONE, Math.max(0, Math.round(value)));
const at = (event) => {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [limit(((event.clientX - left) / width) * ONE), limit((1 - (event.clientY - top) / height) * ONE)];
};
let from = null;
on(canvas, "pointerdown", (event) => { from = at(event); canvas.setPointerCapture(event.pointerId); });
on(canvas, "pointermove", (event) => {
  if (!from) return;
  const to = at(event);
  const sides = (most) => from.map((value, axis) => most(value, to[axis]));
  box = [...sides(Math.min), ...sides(Math.max)];
  redraw();
});
on(canvas, "pointercancel", () => { from = null; });
on(canvas, "pointerup", (event) => {
  if (!from) return;
  const to = at(event), moved = Math.max(...from.map((value, axis) => Math.abs(value - to[axis])));
  from = null;
  if (moved > 120) return select(box);
  let best = -1, least = 250000;
  for (let row = 0; row < N; row++) {
    const far = (x[row] - to[0]) ** 2 + (y[row] - to[1]) ** 2;
    if (far < least) [best, least] = [row, far];
  }
  select(null);
  if (best >= 0) pick(best);
});
on(canvas, "keydown", (event) => {
  const move = { ArrowLeft: [-400, 0], ArrowRight: [400, 0], ArrowUp: [0, 400], ArrowDown: [0, -400] }[event.key];
  if (event.key === "Escape") return select(null);
  if (!move) return;
  event.preventDefault();
  const start = box || [3000, 3000, 7000, 7000];
  select(start.map((value, side) => {
    const by = move[side % 2], low = start[side % 2], high = start[2 + (side % 2)];
    if (event.shiftKey) return side < 2 ? value : Math.max(low + 400, limit(value + by));
    return value + Math.min(ONE - high, Math.max(-low, by));
  }));
});
new ResizeObserver(() => redraw()).observe(canvas.parentNode);
mark();
choose();
})();
