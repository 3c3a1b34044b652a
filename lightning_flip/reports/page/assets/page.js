"use strict";
// Sorting, filtering, selecting on the map, paging, CSV and the theme. Text goes into the page as text, never as markup.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const shape = (name, attributes = {}, ...children) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  // Theme.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let redraw = () => {};
  $("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    redraw();
  });
  dark.addEventListener("change", () => redraw());

  const data = JSON.parse($("data").textContent);
  const D = data.suspects;
  if (!D) return;

  // Columns: [array type, base64]; the largest number stands for none.
  const TYPES = { Uint8Array, Uint16Array, Int32Array };
  const column = ([type, text]) => new TYPES[type](Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const [index, x, y, score, label, suggestion, forgotten, flags, pred, prob] = [
    "index", "x", "y", "score", "label", "suggestion", "forgotten", "flags", "pred", "prob",
  ].map((name) => column(D[name]));
  const N = index.length, P = D.epochs.length, NONE = 65535;
  const named = (one) => (one === NONE ? "?" : D.names[one] || String(one));
  const idOf = (row) => (D.ids && D.ids[row]) || String(index[row]);
  const scored = (row) => (score[row] === NONE ? "-" : (score[row] / 10000).toFixed(3));
  const whole = (number) => number.toLocaleString("en-US");

  // Strips: 0 not seen, 1 the label, 2 another class, 3 the suggestion. The same paths as in _strips.py.
  const KINDS = [[1, "f-label", 4], [2, "f-other", 8], [3, "f-suggestion", 12]];
  const kind = (row, pass) => {
    const one = pred[row * P + pass];
    return one === NONE ? 0 : one === suggestion[row] ? 3 : one === label[row] ? 1 : 2;
  };
  const cells = (row, left, top, width, height) => {
    const step = width / P, gap = P > 60 ? 0 : step * 0.14;
    return KINDS.map(([wanted, style, high]) => {
      const tall = (height * high) / 12;
      let path = "";
      for (let pass = 0; pass < P; pass++)
        if (kind(row, pass) === wanted)
          path += `M${(left + step * pass).toFixed(2)} ${top + height}v${-tall}h${(step - gap).toFixed(2)}v${tall}z`;
      return shape("path", { d: path || "M0 0", class: style });
    });
  };
  const strip = (row) => {
    if (row >= D.detailed) return make("span", { class: "note" }, "not in this page");
    const counts = [0, 0, 0, 0];
    for (let pass = 0; pass < P; pass++) counts[kind(row, pass)]++;
    const words =
      `${counts[1]} times the label, ${counts[3]} times the suggestion, ${counts[2]} times another class` +
      (counts[0] ? `, ${counts[0]} times not seen` : "");
    return shape("svg", {
      class: "strip", viewBox: `0 0 ${P} 12`, width: Math.min(P * 16, 480), preserveAspectRatio: "none", role: "img",
      "aria-label": words,
    }, ...cells(row, 0, 0, P, 12));
  };
  const picture = (row, size) => {
    const S = data.sprite, place = S && S.place[index[row]];
    if (place === undefined || !S) return "";
    const across = place % S.columns, down = (place - across) / S.columns;
    return shape("svg", {
      class: size, viewBox: `0 0 ${S.tile} ${S.tile}`, role: "img", "aria-label": `picture of sample ${idOf(row)}`,
    }, shape("use", { href: "#sprite", x: -across * S.tile, y: -down * S.tile }));
  };

  // The table.
  const PAGE = 25;
  const state = { key: "score", down: false, page: 0, picked: 0, box: null, certain: false };
  const heads = all(".suspects thead th").map((th) => th.className.match(/c-(\w+)/)[1]);
  const keys = { sample: index, score, forgotten };
  let view = [];
  const inBox = (row) => {
    const [x0, y0, x1, y1] = state.box;
    return x[row] >= x0 && x[row] <= x1 && y[row] >= y0 && y[row] <= y1;
  };
  const choose = () => {
    const [one, other] = ["filter-label", "filter-suggestion"].map((id) => $(id).value);
    view = [];
    for (let row = 0; row < N; row++)
      if ((one === "" || label[row] === +one) && (other === "" || suggestion[row] === +other) &&
          (!state.certain || flags[row] & 1) && (!state.box || inBox(row))) view.push(row);
    const values = keys[state.key], sign = state.down ? -1 : 1;
    view.sort((a, b) => sign * (values[a] - values[b]) || a - b);
    state.page = 0;
    show();
    redraw();
  };
  const cell = {
    picture: (row) => make("td", { class: "picture-cell" }, picture(row, "thumb")),
    sample: (row) => {
      const button = make("button", { type: "button", class: "pick", title: idOf(row) }, idOf(row));
      button.addEventListener("click", () => pick(row));
      return make("td", { class: "sample" }, button);
    },
    label: (row) => make("td", { class: "label" }, named(label[row])),
    suggestion: (row) => make("td", { class: "suggestion" },
      make("span", { class: "suggested" + (flags[row] & 1 ? " certain" : "") }, named(suggestion[row]))),
    snippet: (row) => make("td", { class: "snippet-cell" },
      make("span", { class: "snippet" }, (D.text && D.text[row]) || "")),
    score: (row) => make("td", { class: "score number" }, scored(row)),
    forgotten: (row) => make("td", { class: "forgotten number" }, String(forgotten[row])),
    strip: (row) => make("td", { class: "strip-cell" }, strip(row)),
  };
  const show = () => {
    const first = state.page * PAGE, rows = view.slice(first, first + PAGE);
    $("suspect-rows").replaceChildren(...rows.map((row) => {
      const tr = make("tr", row === state.picked ? { class: "picked" } : {}, ...heads.map((name) => cell[name](row)));
      tr.addEventListener("click", () => pick(row));
      return tr;
    }));
    const known = D.complete ? "samples" : `of the ${whole(N)} worst of ${whole(D.total)} samples`;
    $("count").textContent = D.complete ? `${whole(view.length)} of ${whole(N)} ${known}` : `${whole(view.length)} ${known}`;
    $("range").textContent = view.length ? `${whole(first + 1)}–${whole(first + rows.length)}` : "no sample";
    $("before").disabled = !state.page;
    $("next").disabled = first + PAGE >= view.length;
    $("clear").classList.toggle("hidden", !state.box);
  };
  const turn = (by) => { state.page += by; show(); $("suspects").scrollIntoView(); };
  $("before").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  const sorted = () => all("th[data-sort]").forEach((th) => {
    const on = th.dataset.sort === state.key;
    th.setAttribute("aria-sort", on ? (state.down ? "descending" : "ascending") : "none");
    th.firstChild.textContent = th.dataset.title + (on ? (state.down ? " ↓" : " ↑") : "");
  });
  all("th[data-sort]").forEach((th) => {
    th.dataset.title = th.textContent;
    const button = make("button", { type: "button" }, th.textContent);
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const key = th.dataset.sort;
      state.down = state.key === key ? !state.down : key === "forgotten";
      state.key = key;
      sorted();
      choose();
    });
  });
  for (const [id, values] of [["filter-label", label], ["filter-suggestion", suggestion]]) {
    const classes = [...new Set(values)].filter((one) => one !== NONE).sort((a, b) => a - b);
    $(id).append(...classes.map((one) => make("option", { value: one }, named(one))));
    $(id).addEventListener("change", choose);
  }
  $("certain").addEventListener("click", () => {
    state.certain = !state.certain;
    $("certain").setAttribute("aria-pressed", state.certain);
    choose();
  });

  // CSV, with the columns of `lightning-flip suspects --csv`; no cell runs as a formula.
  const quoted = (value) => {
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const classCells = (one) => (one === NONE ? ["", ""] : [one, D.names[one] || ""]);
  $("csv").addEventListener("click", () => {
    const lines = ["index,sample_id,given_label,given_name,predicted_label,predicted_name,label_score,is_label_issue,disagrees,forgetting_events"];
    for (const row of view)
      lines.push([
        index[row], (D.ids && D.ids[row]) || "", ...classCells(label[row]), ...classCells(suggestion[row]),
        score[row] === NONE ? "" : score[row] / 10000, flags[row] & 1 ? "True" : "False", flags[row] & 2 ? "True" : "False",
        forgotten[row],
      ].map(quoted).join(","));
    const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    make("a", { href: url, download: "suspects.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });

  // The picked sample.
  const tell = (fact, words) => { $("sample-" + fact).textContent = words; };
  const pick = (row) => {
    state.picked = row;
    all("#suspect-rows tr").forEach((tr, place) =>
      tr.classList.toggle("picked", view[state.page * PAGE + place] === row));
    tell("name", idOf(row));
    tell("label", named(label[row]));
    tell("suggestion", named(suggestion[row]));
    tell("score", scored(row));
    tell("forgotten", forgotten[row] + (forgotten[row] === 1 ? " time" : " times"));
    $("sample-picture").replaceChildren(picture(row, "picture"));
    if ($("sample-text")) tell("text", (D.text && D.text[row]) || "");
    let right = 0, seen = 0;
    for (let pass = 0; row < D.detailed && pass < P; pass++) {
      seen += pred[row * P + pass] !== NONE;
      right += kind(row, pass) === 1;
    }
    tell("right", row < D.detailed ? `at ${right} of ${seen} passes` : "course not in this page");
    for (const group of all("g.course")) draw(group, row);
    path(row);
    redraw();
  };
  const draw = (group, row) => {
    const [left, inside, top, base] = group.dataset.plot.split(" ").map(Number), step = inside / P;
    let line = "", pen = false;
    const names = [];
    for (let pass = 0; row < D.detailed && pass < P; pass++) {
      const value = prob[row * P + pass], one = pred[row * P + pass], middle = left + step * (pass + 0.5);
      if (value === 255) { pen = false; continue; }
      line += `${pen ? "L" : "M"}${middle.toFixed(2)} ${(base - ((base - top) * value) / 250).toFixed(2)}${pen ? "" : "h.1"}`;
      pen = true;
      const most = Math.max(Math.trunc(step / 7), 2), name = one === NONE ? "" : named(one);
      names.push(shape("text", { x: middle, y: base + 42, "text-anchor": "middle", class: "muted" },
        name.length > most ? name.slice(0, most - 1) + "…" : name));
    }
    group.querySelector(".line").setAttribute("d", line || "M0 0");
    group.querySelector(".cells").replaceChildren(...(row < D.detailed ? cells(row, left, base + 10, inside, 18) : []));
    if (P <= 20 && group.closest(".wide")) group.querySelector(".names").replaceChildren(...names);
  };
  // The learning path: shares of label, suggestion and other classes. The same triangle as in _learning_paths.py.
  const path = (row) => {
    if (!$("simplex")) return;
    const packed = data.sample.paths[row], SIDE = 176, HIGH = (SIDE * Math.sqrt(3)) / 2;
    $("simplex").classList.toggle("hidden", !packed);
    if (!packed) return;
    const values = column(packed), points = [];
    for (let time = 0; time < values.length; time += 2) {
      const other = values[time + 1] / 250, rest = Math.max(0, 1 - values[time] / 250 - other);
      points.push(`${(14 + SIDE * (other + rest / 2)).toFixed(2)} ${(20 + HIGH * (1 - rest)).toFixed(2)}`);
    }
    $("simplex-path").setAttribute("d", "M" + points.join("L"));
  };
  all(".jump").forEach((button) => button.addEventListener("click", () => pick(+button.dataset.row)));

  // The map: points on a canvas over the plot of the visible chart, and a selection in units of the data.
  const canvas = $("map-canvas"), pen = canvas.getContext("2d");
  const plot = () => all(".map .plot").find((rect) => rect.getBoundingClientRect().width);
  const place = (row, width, height) => [(x[row] / 10000) * width, (1 - y[row] / 10000) * height];
  redraw = () => {
    const rect = plot();
    if (!rect) return;
    const outer = canvas.parentNode.getBoundingClientRect(), inner = rect.getBoundingClientRect();
    const scale = devicePixelRatio || 1, { width, height } = inner;
    Object.assign(canvas.style, {
      left: `${inner.left - outer.left}px`, top: `${inner.top - outer.top}px`, width: `${width}px`, height: `${height}px`,
    });
    canvas.width = width * scale;
    canvas.height = height * scale;
    pen.scale(scale, scale);
    const color = (style) => getComputedStyle(document.querySelector(`.map-keys .${style}`)).fill;
    const size = Math.max(1.2, Math.min(3, 150 / Math.sqrt(N)));
    const chosen = new Uint8Array(N);
    for (const row of view) chosen[row] = 1;
    const some = view.length < N;
    for (const wrong of [0, 1]) {
      pen.fillStyle = color(wrong ? "f-suggestion" : "f-point");
      for (const on of [0, 1]) {
        pen.globalAlpha = some && !on ? 0.12 : Math.min(0.9, 0.35 + 400 / N);
        for (let row = 0; row < N; row++) {
          if ((flags[row] & 1) !== wrong || chosen[row] !== on || x[row] === NONE || y[row] === NONE) continue;
          const [across, down] = place(row, width, height);
          pen.fillRect(across - size / 2, down - size / 2, size, size);
        }
      }
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(document.body).color;
    if (x[state.picked] !== NONE) {
      const [across, down] = place(state.picked, width, height);
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(across, down, 7, 0, 7);
      pen.stroke();
    }
    if (state.box) {
      const [x0, y0, x1, y1] = state.box;
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 4]);
      pen.strokeRect((x0 / 10000) * width, (1 - y1 / 10000) * height, ((x1 - x0) / 10000) * width, ((y1 - y0) / 10000) * height);
    }
  };
  const select = (box) => {
    state.box = box;
    all(".region").forEach((button) => button.setAttribute("aria-pressed", String(box) === String(boxOf(button))));
    choose();
  };
  const boxOf = (button) => {
    const [x0, y0, x1, y1] = button.dataset.region.split(" ").map(Number);
    return button.dataset.region ? [x0 * 20000, y0 * 10000, x1 * 20000, y1 * 10000] : null;
  };
  all(".region").forEach((button) => button.addEventListener("click", () => select(boxOf(button))));
  $("clear").addEventListener("click", () => select(null));
  const at = (event) => {
    const rect = canvas.getBoundingClientRect(), limit = (value) => Math.min(10000, Math.max(0, Math.round(value * 10000)));
    return [limit((event.clientX - rect.left) / rect.width), limit(1 - (event.clientY - rect.top) / rect.height)];
  };
  let from = null;
  canvas.addEventListener("pointerdown", (event) => { from = at(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = at(event);
    state.box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    redraw();
  });
  canvas.addEventListener("pointercancel", () => { from = null; select(null); });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [across, up] = at(event), small = Math.abs(across - from[0]) < 120 && Math.abs(up - from[1]) < 120;
    from = null;
    if (!small) return select(state.box);
    let best = -1, least = 250000;
    for (let row = 0; row < N; row++) {
      const far = (x[row] - across) ** 2 + (y[row] - up) ** 2;
      if (x[row] !== NONE && far < least) [best, least] = [row, far];
    }
    select(null);
    if (best >= 0) pick(best);
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-400, 0], ArrowRight: [400, 0], ArrowUp: [0, 400], ArrowDown: [0, -400] };
    if (event.key === "Escape") return select(null);
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    let [x0, y0, x1, y1] = state.box || [3000, 3000, 7000, 7000];
    if (event.shiftKey) [x1, y1] = [Math.min(10000, Math.max(x0 + 400, x1 + move[0])), Math.min(10000, Math.max(y0 + 400, y1 + move[1]))];
    else {
      const across = Math.max(-x0, Math.min(10000 - x1, move[0])), up = Math.max(-y0, Math.min(10000 - y1, move[1]));
      [x0, x1, y0, y1] = [x0 + across, x1 + across, y0 + up, y1 + up];
    }
    select([x0, y0, x1, y1]);
  });
  new ResizeObserver(() => redraw()).observe(canvas.parentNode);
  sorted();
  choose();
})();
