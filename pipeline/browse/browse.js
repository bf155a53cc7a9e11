"use strict";
// The grid of pictures, its filters, and the viewer of one picture. No library: SVG draws boxes.

const PAGE = 48;
const SMALL = 30; // boxes on a small picture, at most
const find = (selector) => document.querySelector(selector);
const state = {
  start: 0, total: 0, images: [], at: -1, box: null, draw: 0, augmented: null,
  view: null, shown: { truth: true, detections: true, labels: false, augment: false },
};

// --- asking the server

async function ask(path, query, body) {
  const address = path + "?" + new URLSearchParams(query || {});
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await fetch(address, options);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

function say(text, wrong = false) {
  find("#status").textContent = text;
  find("#status").classList.toggle("problem", wrong);
}

// Runs what a person asked for; what goes wrong is said on the page.
async function doing(work) {
  try { await work(); } catch (error) { say(error.message, true); about(error.message, true); }
}

// --- drawing

function svg(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

function element(name, text, parent, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  if (parent) parent.append(made);
  return made;
}

function style(kind) {
  if (["object", "found", "missed", "crowd", "right", "detection"].includes(kind)) return kind;
  return kind === "not counted" ? "uncounted" : "wrong";
}

function drawBoxes(parent, boxes, numbered) {
  boxes.forEach((box, i) => {
    const [x, y, width, height] = box.box;
    const classes = [style(box.kind), box.fits ? "" : "other", box.row === state.box ? "chosen" : ""];
    const group = svg("g", { class: classes.join(" "), "data-row": box.row }, parent);
    svg("rect", { x, y, width, height, class: "outline" }, group);
    const line = svg("rect", { x, y, width, height, class: "line" }, group);
    svg("title", {}, line).textContent = words(box);
    if (!numbered) return;
    const text = state.shown.labels ? `${i + 1} ${words(box)}` : `${i + 1}`;
    const corner = box.score === null ? { x, y, dy: "-0.25em" }
      : { x: x + width, y: y + height, dy: "1em", "text-anchor": "end" };
    svg("text", { ...corner, class: "number" }, group).textContent = text;
  });
}

function words(box) {
  return box.label + (box.score === null ? "" : " " + box.score.toFixed(2));
}

function visible(boxes) {
  return boxes.filter((box) => (box.score === null ? state.shown.truth : state.shown.detections));
}

// --- the grid

function query() {
  const chosen = Object.fromEntries(new FormData(find("#filters")));
  return Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== ""));
}

async function load(start) {
  const chosen = query();
  const answer = await ask("/images", { ...chosen, start, count: PAGE });
  Object.assign(state, { start, total: answer.total, images: answer.images });
  find("#grid").replaceChildren(...answer.images.map(card));
  const last = start + answer.images.length;
  say(answer.total ? `${start + 1} to ${last} of ${answer.total} images` : "No image fits.");
  find("#earlier").disabled = start === 0;
  find("#later").disabled = last >= answer.total;
  history.replaceState(null, "", "#" + new URLSearchParams(chosen));
}

function card(image, place) {
  const button = element("button", "", null, "card");
  button.type = "button";
  button.classList.toggle("marked", marked(image));
  const { width, height } = image;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": true }, button);
  svg("image", { href: `/picture?i=${image.index}&side=400`, width, height }, picture);
  drawBoxes(picture, foremost(image.boxes), false);
  const text = element("span", image.name, button, "text");
  element("span", summary(image), text, "quiet");
  button.addEventListener("click", () => open(place));
  return button;
}

// What a small picture has room for: boxes that fit the filters, objects, surest detections.
function foremost(boxes) {
  const weight = (box) => (box.fits ? 2 : 0) + (box.score ?? 1);
  return [...boxes].sort((a, b) => weight(b) - weight(a)).slice(0, SMALL);
}

function marked(image) {
  return Boolean(image.mark) || image.boxes.some((box) => box.mark);
}

function summary(image) {
  const worst = (key) => Math.max(0, ...image.boxes.filter((b) => b.fits).map((b) => b[key]));
  const order = find("#filters").elements.order.value;
  const objects = image.boxes.filter((box) => box.score === null).length;
  const parts = [image.split];
  if (find("[data-do=truth]")) parts.push(`${objects} objects`);
  const others = image.boxes.length - objects;
  if (others) parts.push(`${others} detections`);
  if (order === "loss" || order === "disagreement") parts.push(`${order} ${worst(order)}`);
  if (marked(image)) parts.push("marked");
  return parts.join(", ");
}

// --- the viewer

function open(place) {
  Object.assign(state, { at: place, box: null, draw: 0, view: null });
  if (!find("#viewer").open) find("#viewer").showModal();
  return show();
}

const current = () => (state.shown.augment && state.augmented) || state.images[state.at];

async function show() {
  const image = state.images[state.at];
  state.augmented = null;
  if (state.shown.augment) {
    const recipe = find("#recipe").value;
    state.augmented = await ask("/augmented", { i: image.index, recipe, draw: state.draw });
  }
  find("#name").textContent = image.name;
  const size = `${image.width} × ${image.height} px`;
  find("#place").textContent = `${state.start + state.at + 1} of ${state.total}, ${image.split}, ${size}`;
  find("#augmentation").hidden = !state.shown.augment;
  const lost = state.augmented ? state.augmented.lost : 0;
  find("#lost").textContent = lost ? `${lost} objects left the picture` : "";
  paint();
  list();
  fillMark();
}

function paint() {
  const image = current(), stage = find("#stage");
  const { width, height } = image;
  state.view ||= [0, 0, width, height];
  const side = fullSize() ? 0 : 2048;
  const source = image.picture || `/picture?i=${image.index}&side=${side}`;
  stage.replaceChildren();
  svg("image", { href: source, width, height, preserveAspectRatio: "none" }, stage);
  drawBoxes(stage, visible(image.boxes), true);
  place();
}

// Whether so little of a large picture is seen that its own pixels are wanted.
function fullSize() {
  const { width, height } = current();
  return Math.max(width, height) > 2048 && state.view[2] < width / 2;
}

function place() {
  const stage = find("#stage"), box = stage.getBoundingClientRect();
  stage.setAttribute("viewBox", state.view.join(" "));
  const unit = Math.max(state.view[2] / box.width, state.view[3] / box.height);
  stage.style.setProperty("--unit", unit);
}

function zoom(factor, x, y) {
  const [left, top, width, height] = state.view;
  const wanted = Math.min(current().width * 2, Math.max(16, width * factor));
  const share = wanted / width, before = fullSize();
  const [cx, cy] = [x ?? left + width / 2, y ?? top + height / 2];
  state.view = [cx - (cx - left) * share, cy - (cy - top) * share, wanted, height * share];
  if (fullSize() === before) place(); else paint();
}

function list() {
  const table = find("#boxes");
  const head = element("tr", "", element("thead", ""));
  const compared = Boolean(find("[value=loss]"));
  const names = ["", "class", "score", "kind", ...(compared ? ["loss", "disagr."] : [])];
  for (const name of names) element("th", name, head);
  const body = element("tbody", "");
  visible(current().boxes).forEach((box, i) => {
    const chosen = box.row === state.box ? " chosen" : "";
    const row = element("tr", "", body, style(box.kind) + chosen);
    row.tabIndex = 0;
    row.dataset.row = box.row;
    element("th", `${i + 1}`, row);
    const kind = box.kind + (box.mark ? `, ${box.mark[0]}` : "");
    const cells = [box.label, box.score ?? "", kind, box.loss || "", box.disagreement || ""];
    for (const text of cells.slice(0, names.length - 1)) element("td", `${text}`, row);
  });
  table.replaceChildren(head.parentElement, body);
}

function choose(row) {
  state.box = state.box === row ? null : row;
  const inList = document.activeElement.closest("#boxes");
  paint();
  list();
  if (inList) find(`#boxes [data-row="${row}"]`).focus();
  fillMark();
}

// --- marks

const chosenBox = () => state.images[state.at].boxes.find((box) => box.row === state.box);

function about(text, wrong = false) {
  find("#about").textContent = text;
  find("#about").classList.toggle("problem", wrong);
}

function fillMark() {
  const box = chosenBox();
  const [verdict, note] = (box || state.images[state.at]).mark || ["", ""];
  find("#mark").elements.verdict.value = verdict;
  find("#mark").elements.note.value = note;
  about("Mark for review: " + (box ? `the box of ${words(box)}` : "the picture (or choose a box)"));
}

async function mark(event) {
  const { verdict, note } = Object.fromEntries(new FormData(event.target));
  const image = state.images[state.at];
  const answer = await ask("/mark", {}, { index: image.index, box: state.box, verdict, note });
  const fits = new Map(image.boxes.map((box) => [box.row, box.fits]));
  answer.boxes.forEach((box) => { box.fits = fits.get(box.row); });
  state.images[state.at] = answer;
  find("#grid").children[state.at].replaceWith(card(answer, state.at));
  list();
  about(verdict ? `Marked: ${verdict}` : "Mark removed");
}

// --- what a person does

async function step(by) {
  const next = state.at + by;
  if (next >= 0 && next < state.images.length) return open(next);
  const start = state.start + by * PAGE;
  if (start < 0 || start >= state.total) return;
  await load(start);
  await open(by > 0 ? 0 : state.images.length - 1);
}

async function toggle(name) {
  state.shown[name] = !state.shown[name];
  find(`[data-do=${name}]`).setAttribute("aria-pressed", state.shown[name]);
  if (name === "augment") { state.view = null; return show(); }
  paint();
  list();
}

const actions = {
  previous: () => step(-1), next: () => step(1), in: () => zoom(0.7), out: () => zoom(1 / 0.7),
  whole: () => { state.view = null; paint(); }, truth: () => toggle("truth"),
  detections: () => toggle("detections"), labels: () => toggle("labels"),
  augment: () => toggle("augment"), close: () => find("#viewer").close(),
  again: () => { state.draw += 1; return show(); },
};
const keys = {
  ArrowLeft: "previous", ArrowRight: "next", "+": "in", "-": "out", 0: "whole", g: "truth",
  d: "detections", l: "labels", a: "augment",
};

function pressed(event) {
  if (!find("#viewer").open) return;
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey) return;
  const row = event.target.closest("#boxes [data-row]");
  if (row && event.key === "Enter") { choose(Number(row.dataset.row)); return; }
  if (event.key === "m") { event.preventDefault(); find("#mark").elements.verdict.focus(); return; }
  const name = keys[event.key];
  if (!name || !find(`[data-do=${name}]`)) return;
  event.preventDefault();
  doing(() => actions[name]());
}

function pointed(event) {
  const stage = find("#stage"), { left, top } = stage.getBoundingClientRect();
  const matrix = stage.getScreenCTM();
  const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
  return { x, y, scale: matrix.a, left, top };
}

function dragging(down) {
  const stage = find("#stage"), start = [...state.view], { scale } = pointed(down);
  const move = (event) => {
    const [dx, dy] = [event.clientX - down.clientX, event.clientY - down.clientY];
    state.view = [start[0] - dx / scale, start[1] - dy / scale, start[2], start[3]];
    place();
  };
  stage.addEventListener("pointermove", move);
  const end = (event) => {
    stage.removeEventListener("pointermove", move);
    const still = Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 4;
    const box = down.target.closest("[data-row]");
    if (still && box) choose(Number(box.dataset.row));
  };
  stage.addEventListener("pointerup", end, { once: true });
}

function restore() {
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    const field = find("#filters").elements[key];
    if (field && field.type === "checkbox") field.checked = true;
    else if (field) field.value = value;
  }
}

find("#filters").addEventListener("change", () => doing(() => load(0)));
find("#filters").addEventListener("submit", (event) => event.preventDefault());
find("#filters").addEventListener("reset", () => setTimeout(() => doing(() => load(0))));
find("#earlier").addEventListener("click", () => doing(() => load(Math.max(0, state.start - PAGE))));
find("#later").addEventListener("click", () => doing(() => load(state.start + PAGE)));
document.addEventListener("keydown", pressed);
find("#viewer").addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]"), row = event.target.closest("#boxes [data-row]");
  if (button) doing(() => actions[button.dataset.do]());
  else if (row) choose(Number(row.dataset.row));
});
find("#recipe").addEventListener("change", () => doing(show));
find("#mark").addEventListener("submit", (event) => {
  event.preventDefault();
  doing(() => mark(event));
});
find("#stage").addEventListener("pointerdown", dragging);
find("#stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  const { x, y } = pointed(event);
  zoom(event.deltaY < 0 ? 0.85 : 1 / 0.85, x, y);
}, { passive: false });
window.addEventListener("resize", () => { if (find("#viewer").open) place(); });
restore();
doing(() => load(0));
