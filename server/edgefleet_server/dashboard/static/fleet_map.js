// The map of the fleet. Of few devices the page has a square each, and this script says which device a square is; of many it draws them:
// one picture of a pixel a device and one of tiles of 2, 4, 8 … of them, enlarged, with the gaps drawn over it. So a frame costs a few
// pictures and lines, however many devices there are. Without scripts the page has bars and lists instead.
"use strict";
(() => {
  const part = document.getElementById("map");
  if (!part) return;
  const CHUNK = 200; // names of one answer
  const REST_MS = 80; // of a pointer, before names are asked for
  const LEAST_PX = 3; // of a square; smaller ones are drawn as tiles
  const SHAPED_PX = 9; // from here on states have their shapes
  const MOST_PX = 22;
  const AGAIN_MS = 3000;
  const COLOURS = {
    "": "--ok-map", w: "--warn-fill", b: "--bad-fill", u: "--run-fill", o: "--off-fill", q: "--off-fill", n: "--off-soft",
    v1: "--s1", v2: "--s2", v3: "--s3", v4: "--s4",
  };
  const WORST = ["b", "o", "w", "q", "u", "v4", "v3", "v2", "n", "v1", ""];
  const known = new Map();
  const versionNow = () => part.querySelector("[data-version]")?.dataset.version ?? "";

  function namesOf(group, from) {
    const base = part.dataset.names;
    const address = `${base}${base.includes("?") ? "&" : "?"}of=${encodeURIComponent(group)}&start=${from}`;
    const key = `${versionNow()} ${address}`; // a device that comes or goes moves those behind it
    if (!known.has(key)) {
      if (known.size > 200) known.clear();
      const failed = () => known.delete(key) && []; // the next pointer asks again
      known.set(key, fetch(address).then((answer) => (answer.ok ? answer.json() : failed())).catch(failed));
    }
    return known.get(key);
  }

  async function deviceAt(group, place) {
    const from = place - (place % CHUNK);
    return (await namesOf(group, from))[place - from] ?? null;
  }

  // ---- squares of the page
  const card = part.closest(".card");
  const tip = document.createElement("p"); // of the card: news take away what a live part holds and the server did not send
  tip.className = "tipcard";
  tip.hidden = true;
  card.append(tip);
  let asked = null;

  function say(event, text) {
    const { left, top } = card.getBoundingClientRect();
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(event.clientX - left + 12, card.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - top + 16}px`;
  }

  async function sayDevice(event, group, place, words) {
    const mine = (asked = {});
    await new Promise((done) => setTimeout(done, REST_MS));
    if (asked !== mine) return;
    const one = await deviceAt(group, place);
    if (asked === mine && one) say(event, `${one[1] || one[0]}${words ? ` · ${words}` : ""}`);
  }

  function hush() {
    asked = null;
    tip.hidden = true;
  }

  const squareOf = (target) => (target.parentElement?.classList.contains("map") ? target : null);
  part.addEventListener("pointerover", (event) => {
    const square = squareOf(event.target);
    if (!square) return hush();
    const site = square.closest(".site");
    const mark = [...square.classList][0] ?? "";
    const words = part.querySelector(`.keys .sq${mark ? `.${mark}` : ":not([class*=' '])"}`)?.parentElement.textContent ?? "";
    const place = [...square.parentElement.children].indexOf(square);
    sayDevice(event, site.dataset.group, place, words.replace(/^[\s\d\u202f]+/, ""));
  });
  part.addEventListener("pointerleave", hush);
  part.addEventListener("click", async (event) => {
    const square = squareOf(event.target);
    if (!square) return;
    const one = await deviceAt(square.closest(".site").dataset.group, [...square.parentElement.children].indexOf(square));
    if (one) location.href = `/devices/${encodeURIComponent(one[0])}`;
  });

  // ---- squares that this script draws
  const atlas = document.querySelector(".atlas");
  if (!atlas) return;
  const canvas = atlas.querySelector("canvas");
  const ink = canvas.getContext("2d");
  let groups = [];
  let marks = {};
  let world = { width: 1, height: 1 };
  let view = null;
  let colours = {};
  let waiting = 0;
  let version = "";
  let size = { width: 0, height: 0 };

  const probe = document.createElement("span"); // a custom property holds light-dark() as it is written; an element has the colour
  probe.hidden = true;
  atlas.append(probe);

  function token(name) {
    probe.style.color = `var(${name})`;
    ink.fillStyle = getComputedStyle(probe).color;
    return ink.fillStyle;
  }

  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  function recolour() {
    colours = Object.fromEntries(Object.entries(COLOURS).map(([mark, name]) => [mark, token(name)]));
    colours.ground = token("--card");
    colours.text = token("--text");
    colours.rgb = Object.fromEntries(Object.keys(COLOURS).map((mark) => [mark, rgb(colours[mark])]));
    colours.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
    for (const one of groups) one.levels = [];
    draw();
  }

  function place() {
    const shape = size.width / Math.max(1, size.height);
    const total = groups.reduce((sum, one) => sum + one.letters.length, 0);
    const gap = Math.max(2, Math.sqrt(total) * 0.05);
    const wide = Math.sqrt(total * shape) * 1.12 + gap;
    let [x, y, high, most] = [0, 0, 0, 0];
    for (const one of [...groups].sort((a, b) => b.letters.length - a.letters.length || (a.label < b.label ? -1 : 1))) {
      one.cols = Math.max(1, Math.ceil(Math.sqrt(one.letters.length * shape)));
      one.rows = Math.max(1, Math.ceil(one.letters.length / one.cols));
      if (x && x + one.cols > wide) [x, y, high] = [0, y + high + gap, 0];
      [one.x, one.y] = [x, y + gap];
      x += one.cols + gap;
      high = Math.max(high, one.rows + gap);
      most = Math.max(most, x - gap);
    }
    world = { width: most, height: y + high };
  }

  // a level is a picture of k × k devices a pixel: of several, the colour of the worst, the stronger the more of them there are
  function level(one, k) {
    const at = Math.log2(k);
    if (one.levels[at]) return one.levels[at];
    const [cols, rows] = [Math.ceil(one.cols / k), Math.ceil(one.rows / k)];
    const picture = new OffscreenCanvas(cols, rows);
    const pen = picture.getContext("2d");
    const image = pen.createImageData(cols, rows);
    for (let tile = 0; tile < cols * rows; tile += 1) {
      const found = worstOf(one, (tile % cols) * k, Math.floor(tile / cols) * k, k);
      if (!found.devices) continue;
      const share = found.count / found.devices;
      const strong = k === 1 || found.mark === "" ? 1 : 0.4 + 0.6 * share;
      const [bad, good] = [colours.rgb[found.mark], colours.rgb[found.rest]];
      for (let c = 0; c < 3; c += 1) image.data[tile * 4 + c] = Math.round(bad[c] * strong + good[c] * (1 - strong));
      image.data[tile * 4 + 3] = 255;
    }
    pen.putImageData(image, 0, 0);
    one.levels[at] = picture;
    return picture;
  }

  function worstOf(one, left, top, k) {
    const counts = {};
    let devices = 0;
    for (let row = top; row < Math.min(top + k, one.rows); row += 1) {
      const from = row * one.cols + left;
      const until = Math.min(row * one.cols + Math.min(left + k, one.cols), one.letters.length);
      for (let at = from; at < until; at += 1) {
        const letter = one.letters[at];
        counts[letter] = (counts[letter] ?? 0) + 1;
        devices += 1;
      }
    }
    const there = Object.keys(counts).sort((a, b) => WORST.indexOf(marks[a].mark) - WORST.indexOf(marks[b].mark));
    const most = there.reduce((best, letter) => (counts[letter] > (counts[best] ?? 0) ? letter : best), there[0]);
    const letter = there[0] ?? "";
    return { devices, counts, letter, count: counts[letter] ?? 0, mark: marks[letter]?.mark ?? "", rest: marks[most]?.mark ?? "" };
  }

  function fit() {
    const scale = Math.min(size.width / world.width, size.height / world.height, MOST_PX);
    view = { x: (world.width - size.width / scale) / 2, y: 0, scale, least: scale };
  }

  function resize() {
    const { clientWidth, clientHeight } = canvas;
    const ratio = Math.min(2, devicePixelRatio || 1);
    if (!clientWidth || (size.width === clientWidth && size.ratio === ratio)) return;
    size = { width: clientWidth, height: clientHeight, ratio };
    canvas.width = Math.round(clientWidth * ratio);
    canvas.height = Math.round(clientHeight * ratio);
    place();
    fit();
    for (const one of groups) one.levels = [];
    draw();
  }

  function draw() {
    if (!waiting && view) waiting = requestAnimationFrame(paint);
  }

  const tileOf = (scale) => (scale >= LEAST_PX ? 1 : 2 ** Math.ceil(Math.log2((LEAST_PX + 1) / scale)));

  function paint() {
    waiting = 0;
    const { scale } = view;
    const k = tileOf(scale);
    ink.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    ink.fillStyle = colours.ground;
    ink.fillRect(0, 0, size.width, size.height);
    ink.imageSmoothingEnabled = false;
    for (const one of groups) paintGroup(one, k, scale * k);
  }

  function paintGroup(one, k, pitch) {
    const left = (one.x - view.x) * view.scale;
    const top = (one.y - view.y) * view.scale;
    const [cols, rows] = [Math.ceil(one.cols / k), Math.ceil(one.rows / k)];
    if (left > size.width || top > size.height || left + cols * pitch < 0 || top + rows * pitch < 0) return;
    const from = [Math.max(0, Math.floor(-left / pitch)), Math.max(0, Math.floor(-top / pitch))];
    const until = [Math.min(cols, Math.ceil((size.width - left) / pitch)), Math.min(rows, Math.ceil((size.height - top) / pitch))];
    const [wide, high] = [until[0] - from[0], until[1] - from[1]];
    if (wide <= 0 || high <= 0) return;
    const [x, y] = [left + from[0] * pitch, top + from[1] * pitch];
    ink.drawImage(level(one, k), from[0], from[1], wide, high, x, y, wide * pitch, high * pitch);
    const gap = Math.max(0.75, Math.min(3, pitch * 0.2));
    ink.fillStyle = colours.ground;
    for (let n = 0; n <= wide; n += 1) ink.fillRect(x + n * pitch - gap, y - gap, gap, high * pitch + gap);
    for (let n = 0; n <= high; n += 1) ink.fillRect(x - gap, y + n * pitch - gap, wide * pitch + gap, gap);
    if (k === 1 && pitch >= SHAPED_PX) shapes(one, from, until, left, top, pitch, gap);
    title(one, left, top);
  }

  function title(one, left, top) {
    if (top < 14 || top > size.height) return;
    ink.font = colours.font;
    ink.fillStyle = colours.text;
    one.wide ??= ink.measureText(one.label).width;
    if (one.wide < one.cols * view.scale + 16) ink.fillText(one.label, Math.max(4, left), top - 5);
  }

  function shapes(one, from, until, left, top, pitch, gap) {
    const side = pitch - gap;
    for (let row = from[1]; row < until[1]; row += 1) {
      for (let col = from[0]; col < until[0]; col += 1) {
        const letter = one.letters[row * one.cols + col];
        const mark = letter === undefined ? "" : marks[letter].mark;
        if (mark === "" || mark === "v1") continue;
        const [x, y] = [left + col * pitch, top + row * pitch];
        ink.fillStyle = colours.ground;
        ink.fillRect(x, y, side, side);
        shape(mark, x, y, side);
      }
    }
  }

  function shape(mark, x, y, side) {
    ink.fillStyle = ink.strokeStyle = colours[mark];
    ink.lineWidth = 1.5;
    if (mark === "b" || mark === "v2") {
      ink.beginPath();
      ink.arc(x + side / 2, y + side / 2, side / 2, 0, 7);
      ink.fill();
    } else if (mark === "w" || mark === "v3") {
      ink.beginPath();
      ink.moveTo(x, y);
      ink.lineTo(x + side, y);
      ink.lineTo(x, y + side);
      ink.fill();
      ink.strokeRect(x + 0.75, y + 0.75, side - 1.5, side - 1.5);
    } else if (mark === "u") {
      ink.fillRect(x, y + side * 0.45, side, side * 0.55);
      ink.strokeRect(x + 0.75, y + 0.75, side - 1.5, side - 1.5);
    } else if (mark === "n") {
      ink.fillRect(x, y, side, side);
    } else {
      ink.setLineDash(mark === "q" ? [2, 2] : []);
      ink.strokeRect(x + 0.75, y + 0.75, side - 1.5, side - 1.5);
      ink.setLineDash([]);
    }
  }

  // ---- what the pointer is on, and where it leads
  function under(event) {
    const { left, top } = canvas.getBoundingClientRect();
    const x = (event.clientX - left) / view.scale + view.x;
    const y = (event.clientY - top) / view.scale + view.y;
    const one = groups.find((each) => x >= each.x && y >= each.y && x < each.x + each.cols && y < each.y + each.rows);
    if (!one) return null;
    const k = tileOf(view.scale);
    const [col, row] = [Math.floor((x - one.x) / k) * k, Math.floor((y - one.y) / k) * k];
    const found = worstOf(one, col, row, k);
    return found.devices ? { one, k, at: row * one.cols + col, found } : null;
  }

  function zoom(by, x = size.width / 2, y = size.height / 2) {
    const scale = Math.max(view.least, Math.min(MOST_PX, view.scale * by));
    view.x += x / view.scale - x / scale;
    view.y += y / view.scale - y / scale;
    view.scale = scale;
    hush();
    draw();
  }

  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    held = { x: event.clientX, y: event.clientY, moved: 0 };
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("is-held");
    hush();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!view) return;
    if (held) {
      const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
      held = { x: event.clientX, y: event.clientY, moved: held.moved + Math.abs(dx) + Math.abs(dy) };
      view.x -= dx / view.scale;
      view.y -= dy / view.scale;
      return draw();
    }
    const hit = under(event);
    if (!hit) return hush();
    if (hit.k === 1) return void sayDevice(event, hit.one.name, hit.at, marks[hit.found.letter].label);
    asked = null;
    const words = Object.entries(hit.found.counts).map(([letter, n]) => `${n} ${marks[letter].label}`);
    say(event, `${hit.one.label} · ${words.join(", ")}`);
  });
  canvas.addEventListener("pointerleave", hush);
  canvas.addEventListener("pointercancel", () => {
    held = null;
  });
  canvas.addEventListener("pointerup", async (event) => {
    canvas.classList.remove("is-held");
    const was = held;
    held = null;
    const hit = was && was.moved < 4 ? under(event) : null;
    if (!hit) return;
    if (hit.k > 1) return void (location.href = listOf(hit));
    const one = await deviceAt(hit.one.name, hit.at);
    if (one) location.href = `/devices/${encodeURIComponent(one[0])}`;
  });

  function listOf(hit) {
    const address = new URL(hit.one.address, location.href);
    const state = marks[hit.found.letter];
    if (!new URL(atlas.dataset.map, location.href).searchParams.has("colour") && state.mark !== "") {
      const selector = [address.searchParams.get("selector"), `health=${state.label}`].filter(Boolean).join(",");
      address.searchParams.set("selector", selector);
    }
    return address.href;
  }

  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      const { left, top } = canvas.getBoundingClientRect();
      zoom(2 ** (-event.deltaY / 200), event.clientX - left, event.clientY - top);
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    zoom(2, event.clientX - left, event.clientY - top);
  });
  atlas.addEventListener("click", (event) => {
    const by = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (by === "0") fit();
    if (by) zoom(Number(by) || 1);
  });

  async function read() {
    version = versionNow();
    const answer = await fetch(atlas.dataset.map).catch(() => null);
    if (!answer?.ok) return;
    const found = await answer.json();
    [marks, groups] = [found.keys, found.groups];
    for (const one of groups) one.levels = [];
    known.clear();
    atlas.hidden = false;
    const before = view;
    size = {};
    resize();
    if (before) view = before;
    recolour();
  }

  let isReading = false;
  new MutationObserver(() => {
    if (isReading || versionNow() === version) return;
    isReading = true;
    setTimeout(() => read().finally(() => (isReading = false)), AGAIN_MS);
  }).observe(part, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-version"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new ResizeObserver(resize).observe(canvas);
  read();
})();
