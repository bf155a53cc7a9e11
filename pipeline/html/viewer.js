"use strict";
// Opens the pictures of a page: zoom and pan, grey values through a window, boxes that can be hidden.
// A picture's values come of a script beside the page (pipeline/predict/formats/pixels.py), or of a
// picture in the page itself; where there is neither, what was drawn is shown as it is.
(() => {
  const figures = [...document.querySelectorAll("[data-view]")];
  const dialog = document.querySelector("#viewer");
  if (!figures.length || !dialog) return;
  const find = (selector) => dialog.querySelector(selector);
  const stage = find(".stage"), canvas = find("canvas"), lines = find("svg");
  const flat = stage.insertBefore(new Image(), lines);
  const shown = { boxes: true, truth: true, classes: true, scores: true, window: false };
  const state = { at: 0, data: null, pixels: null, chosen: -1, scale: 1, x: 0, y: 0, grey: null,
    fitted: true };
  const FEW = 8; // boxes whose names stand on the picture from the start
  const HOUNSFIELD = { "lung": [-600, 1500], "soft tissue": [40, 400], "bone": [400, 1800],
    "brain": [40, 80] };

  // --- values

  const waiting = new Map();
  window.descryPixels = (...given) => waiting.get(document.currentScript)?.(...given);

  async function unpacked(text, about, rows, columns) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = rows * columns, deep = about === 16;
    const values = deep ? new Uint16Array(count) : new Uint8Array(count);
    for (let row = 0, i = 0; row < rows; row += 1) {
      for (let column = 0, last = 0; column < columns; column += 1, i += 1) {
        last = deep ? (last + (planes[i] << 8) + planes[count + i]) & 65535
          : (last + planes[i]) & 255;
        values[i] = last;
      }
    }
    return values;
  }

  // The values of a script beside the page; null where it does not come.
  function fromScript(address) {
    return new Promise((resolve) => {
      const script = document.createElement("script");
      script.addEventListener("error", () => resolve(null));
      waiting.set(script, async (about, packed, table) => {
        waiting.delete(script);
        script.remove();
        const { width, height, channels, bits } = about;
        const values = await unpacked(packed, bits, height * channels, width);
        const grey = channels === 1 ? await unpacked(table, 8, 1, (1 << bits)) : null;
        resolve({ ...about, values, table: grey });
      });
      script.src = address;
      document.head.append(script);
    });
  }

  // The values of a picture in the page.
  async function fromPicture(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const paper = Object.assign(document.createElement("canvas"), { width, height });
    const pen = paper.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const { data } = pen.getImageData(0, 0, width, height), count = width * height;
    const values = new Uint8Array(3 * count);
    for (let i = 0; i < count; i += 1) {
      for (let k = 0; k < 3; k += 1) values[k * count + i] = data[4 * i + k];
    }
    return { width, height, channels: 3, every: state.data.width / width, values, table: null };
  }

  const meaning = (i) => (state.pixels.first ?? 0) + (state.pixels.slope ?? 1) * i;
  const places = () => state.pixels.table?.length ?? 256;

  // --- window

  // Centre and width that come near to what the model saw.
  function asTheModel() {
    const { table, window: said } = state.pixels;
    if (said) return [said[0], Math.max(1e-6, said[1])];
    if (!table) return [127.5, 255];
    const between = table.findIndex((v) => v > 0 && v < 255), last = table.findLastIndex(
      (v) => v > 0 && v < 255);
    const [low, high] = between < 0 ? [0, table.length - 1] : [between, last];
    const ends = [meaning(low), meaning(high)];
    return [(ends[0] + ends[1]) / 2, Math.max(1e-6, Math.abs(ends[1] - ends[0]))];
  }

  function percentiles() {
    const counts = new Float64Array(places()), { values } = state.pixels;
    for (const value of values) counts[value] += 1;
    const at = (share) => {
      let sum = 0;
      return counts.findIndex((count) => (sum += count) >= share * values.length);
    };
    const [low, high] = [meaning(at(0.01)), meaning(at(0.99))];
    return [(low + high) / 2, Math.max(1e-6, Math.abs(high - low))];
  }

  function preset(name) {
    const ends = [meaning(0), meaning(places() - 1)];
    const given = { model: asTheModel, range: () => [(ends[0] + ends[1]) / 2,
      Math.max(1e-6, Math.abs(ends[1] - ends[0]))], percentiles };
    const [centre, width] = HOUNSFIELD[name] ?? (given[name] ?? asTheModel)();
    state.grey = { name, centre, width, inverted: false };
    expose();
  }

  // What each value looks like, as a pixel of grey (channels are looked up one by one).
  function look() {
    const { name, centre, width, inverted } = state.grey, { table, inverted: turned } = state.pixels;
    const tones = new Uint8ClampedArray(places());
    for (let i = 0; i < tones.length; i += 1) {
      const linear = 255 * ((meaning(i) - centre) / width + 0.5);
      tones[i] = name === "model" ? (table ? table[i] : i) : turned ? 255 - linear : linear;
      if (inverted) tones[i] = 255 - tones[i];
    }
    return tones;
  }

  let due = false;
  function expose() {
    if (due || !state.pixels) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (state.pixels && state.grey) develop();
    });
  }

  function develop() {
    const { width, height, channels, values } = state.pixels, tones = look();
    const image = new ImageData(width, height), count = width * height;
    const out = new Uint32Array(image.data.buffer), black = 0xff000000;
    for (let i = 0; i < count; i += 1) {
      const red = tones[values[i]];
      const [green, blue] = channels === 1 ? [red, red]
        : [tones[values[count + i]], tones[values[2 * count + i]]];
      out[i] = (black | (blue << 16) | (green << 8) | red) >>> 0;
    }
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").putImageData(image, 0, 0);
    const { name, centre, width: span } = state.grey;
    find("[name=preset]").value = name;
    find("[name=centre]").value = +centre.toPrecision(5);
    find("[name=width]").value = +span.toPrecision(5);
    place();
  }

  // --- place

  function place() {
    const { scale, x, y } = state, { width, height } = stage.getBoundingClientRect();
    if (!width) return; // being printed
    const layer = state.pixels ? canvas : flat;
    const own = scale * (state.pixels ? state.pixels.every : 1);
    layer.style.transform = `translate(${x}px, ${y}px) scale(${own})`;
    layer.style.imageRendering = own >= 2 ? "pixelated" : "auto";
    lines.setAttribute("viewBox", `${-x / scale} ${-y / scale} ${width / scale} ${height / scale}`);
    lines.style.setProperty("--unit", 1 / scale);
    find(".zoom").textContent = `${Math.round(100 * scale)} %`;
  }

  function fit(scale = 0) {
    const { width, height } = stage.getBoundingClientRect(), picture = state.data;
    if (!width) return;
    state.fitted = !scale;
    state.scale = scale || Math.min(width / picture.width, height / picture.height);
    state.x = (width - picture.width * state.scale) / 2;
    state.y = (height - picture.height * state.scale) / 2;
    place();
  }

  function zoom(factor, x, y) {
    const box = stage.getBoundingClientRect();
    const [cx, cy] = [x ?? box.width / 2, y ?? box.height / 2];
    const wanted = Math.min(40, Math.max(0.02, state.scale * factor)), share = wanted / state.scale;
    Object.assign(state, { scale: wanted, fitted: false, x: cx - (cx - state.x) * share,
      y: cy - (cy - state.y) * share });
    place();
  }

  // --- boxes

  function svg(name, attributes, parent) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  const visible = ({ score }) => (score === null ? shown.truth : shown.boxes);

  function words(box, i) {
    const parts = [`${i + 1}`];
    if (shown.classes) parts.push(box.label);
    if (shown.scores && box.score !== null) parts.push(box.score.toFixed(2));
    return parts.join(" ");
  }

  function draw() {
    lines.replaceChildren();
    if (!state.pixels && state.data.drawn) return; // they are in the picture
    state.data.boxes.forEach((box, i) => {
      if (!visible(box)) return;
      const [x, y, width, height] = box.box;
      const kind = [box.score === null ? "truth" : "found", i === state.chosen ? "chosen" : ""];
      const group = svg("g", { class: kind.join(" ") }, lines);
      svg("rect", { x, y, width, height, class: "outline" }, group);
      svg("rect", { x, y, width, height, class: "line", stroke: box.colour }, group);
      svg("text", { x, y, dy: "-0.3em", fill: box.colour }, group).textContent = words(box, i);
    });
  }

  function list() {
    const rows = state.data.boxes.map((box, i) => {
      const row = document.createElement("li"), button = document.createElement("button");
      const score = box.score === null ? "ground truth" : box.score.toFixed(2);
      button.textContent = `${box.label} ${score}`;
      button.setAttribute("aria-pressed", i === state.chosen);
      button.addEventListener("click", () => {
        state.chosen = state.chosen === i ? -1 : i;
        draw();
        list();
        find(`.list li:nth-child(${i + 1}) button`).focus();
      });
      row.append(button);
      return row;
    });
    find(".list").replaceChildren(...rows);
  }

  // --- opening

  async function open(at) {
    const figure = figures[at], data = JSON.parse(figure.dataset.view);
    Object.assign(state, { at, data, pixels: null, grey: null, chosen: -1 });
    shown.classes = shown.scores = data.boxes.length <= FEW;
    if (!dialog.open) dialog.showModal();
    find(".name").textContent = data.name;
    find(".place").textContent = `${at + 1} of ${figures.length}`;
    if (data.boxes.length) lines.setAttribute("aria-label", `${data.boxes.length} boxes`);
    for (const [name, there] of [["truth", data.boxes.some(({ score }) => score === null)],
      ["boxes", data.boxes.some(({ score }) => score !== null)]]) find(`[data-do=${name}]`).hidden = !there;
    canvas.hidden = true;
    flat.hidden = true;
    find(".problem").textContent = "";
    press();
    fit();
    draw();
    list();
    const pixels = data.pixels ? await fromScript(data.pixels)
      : data.picture ? await fromPicture(data.picture) : null;
    if (state.data !== data) return; // somebody went on meanwhile
    state.pixels = pixels;
    canvas.hidden = !pixels;
    flat.hidden = Boolean(pixels);
    find(".grey").hidden = !pixels;
    find(".presets").hidden = !pixels?.hounsfield;
    if (pixels) preset("model");
    else if (data.drawn) flat.src = data.drawn;
    if (!pixels) {
      find(".problem").textContent = "Grey values were not kept (--pixels): this is the drawn picture.";
    } else if (pixels.every > 1) {
      find(".problem").textContent = `Reduced by ${pixels.every.toFixed(1)}: boxes are where they were.`;
    }
    draw();
    place();
  }

  function press() {
    for (const [name, on] of Object.entries(shown)) {
      find(`[data-do=${name}]`).setAttribute("aria-pressed", on);
    }
    stage.classList.toggle("windowing", shown.window);
  }

  function toggle(name) {
    shown[name] = !shown[name];
    press();
    draw();
  }

  const step = (by) => open((state.at + by + figures.length) % figures.length);
  const actions = {
    previous: () => step(-1), next: () => step(1), in: () => zoom(1.4), out: () => zoom(1 / 1.4),
    whole: () => fit(), native: () => fit(1), close: () => dialog.close(),
    invert: () => {
      if (!state.grey) return;
      state.grey.inverted = !state.grey.inverted;
      expose();
    },
    reset: () => { if (state.pixels) preset("model"); },
    ...Object.fromEntries(Object.keys(shown).map((name) => [name, () => toggle(name)])),
  };
  const keys = {
    ArrowLeft: "previous", ArrowRight: "next", "+": "in", "=": "in", "-": "out", 0: "whole",
    1: "native", b: "boxes", g: "truth", c: "classes", s: "scores", w: "window", i: "invert",
    r: "reset",
  };

  // --- what a person does

  figures.forEach((figure, at) => {
    if (figure.tagName !== "A") Object.assign(figure, { tabIndex: 0, role: "button" });
    figure.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      open(at);
    });
    figure.addEventListener("keydown", (event) => {
      if (figure.tagName !== "A" && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        open(at);
      }
    });
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) actions[button.dataset.do]();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = keys[event.key];
    if (!name || find(`[data-do=${name}]`)?.hidden) return;
    event.preventDefault();
    actions[name]();
  });
  dialog.addEventListener("close", () => figures[state.at].focus());
  find("[name=preset]").addEventListener("change", (event) => {
    preset(event.target.value);
    stage.focus(); // keys are for the picture again
  });
  for (const name of ["centre", "width"]) {
    find(`[name=${name}]`).addEventListener("change", (event) => {
      const value = Number(event.target.value);
      if (!state.grey || !Number.isFinite(value) || (name === "width" && value <= 0)) return;
      Object.assign(state.grey, { name: "own", [name]: value });
      expose();
      stage.focus();
    });
  }

  const fingers = new Map();
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    tell(event);
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (others.length) pinch(before, [event.clientX, event.clientY], others[0]);
    else if (shown.window || event.buttons === 2) drag(dx, dy);
    else {
      Object.assign(state, { x: state.x + dx, y: state.y + dy, fitted: false });
      place();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { left, top } = stage.getBoundingClientRect();
    zoom(event.deltaY < 0 ? 1.18 : 1 / 1.18, event.clientX - left, event.clientY - top);
  }, { passive: false });
  new ResizeObserver(() => {
    if (!dialog.open) return;
    if (state.fitted) fit(); else place();
  }).observe(stage);

  function pinch(before, after, other) {
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    const { left, top } = stage.getBoundingClientRect();
    zoom(apart(after) / apart(before), (after[0] + other[0]) / 2 - left, (after[1] + other[1]) / 2 - top);
  }

  // Across: width; down: brightness, as in most viewers of radiographs.
  function drag(dx, dy) {
    if (!state.grey) return;
    const { grey } = state, range = Math.abs(meaning(places() - 1) - meaning(0));
    grey.width = Math.max(range / 4096, grey.width * Math.exp(dx / 200));
    grey.centre += (dy * grey.width) / 300;
    grey.name = "own";
    expose();
  }

  function tell(event) {
    const { left, top } = stage.getBoundingClientRect(), { scale, pixels } = state;
    const [x, y] = [(event.clientX - left - state.x) / scale, (event.clientY - top - state.y) / scale];
    const inside = x >= 0 && y >= 0 && x < state.data.width && y < state.data.height;
    let text = inside ? `${Math.floor(x)}, ${Math.floor(y)}` : "";
    if (inside && pixels) {
      const row = Math.min(pixels.height - 1, Math.floor(y / pixels.every));
      const at = row * pixels.width + Math.min(pixels.width - 1, Math.floor(x / pixels.every));
      const each = Array.from({ length: pixels.channels },
        (_, k) => +meaning(pixels.values[k * pixels.width * pixels.height + at]).toPrecision(6));
      text += `: ${each.join(" ")}${pixels.hounsfield ? " HU" : ""}`;
    }
    find(".value").textContent = text;
  }
})();
