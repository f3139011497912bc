// Charts need no script. This adds a cursor at the same moment in all charts (pointer, or arrow keys) with a readout, zoom by dragging (or
// Shift with arrow keys, then Enter), and figures copied as CSV.
"use strict";
(() => {
  const PLOTS = ".plot, .spark[data-plot]";
  const LEAST_S = 60;
  const FAR = 24;
  const COPIED_MS = 2000;
  const charts = new Map(); // id -> its figures
  let text = "";
  let cursor = null; // {plot, at}: what is looked at, and when
  let copied = ""; // id of the chart whose figures were copied a moment ago
  let fade = 0;
  let start = null; // where a choice began: {plot, at, x}; x: it is dragged
  const readout = document.createElement("div");
  readout.className = "readout";
  readout.hidden = true;
  document.body.append(readout);

  function written(value, unit) {
    if (value == null) return "–";
    const digits = Math.abs(value) < 1000 ? { maximumSignificantDigits: 4 } : { maximumFractionDigits: 0 };
    return `${value.toLocaleString("en", digits).replaceAll(",", "\u202f")} ${unit}`.trim();
  }

  const iso = (at) => new Date(at * 1000).toISOString().replace(".000", "");

  function read() {
    const found = [...document.querySelectorAll("script[data-figures]")].map((one) => one.textContent);
    if (found.join() === text) return;
    text = found.join();
    charts.clear();
    for (const one of found.flatMap((json) => JSON.parse(json).charts)) charts.set(one.id, one);
  }

  const figuresOf = (plot) => charts.get(plot.closest("[data-plot]").dataset.plot);
  const share = ({ begin, end }, at) => (end > begin ? (100 * (at - begin)) / (end - begin) : 50);
  const nearest = (times, at) => times.reduce((n, one, m) => (Math.abs(one - at) < Math.abs(times[n] - at) ? m : n), 0);

  function momentAt(plot, event) {
    const { begin, end } = figuresOf(plot);
    const box = plot.getBoundingClientRect();
    return begin + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (end - begin);
  }

  // the figures at a moment; none without any near it
  function fill(legend, { data, newest, unit, begin, end }, at) {
    const n = at == null ? -1 : nearest(data[0], at);
    const isFar = n >= 0 && Math.abs(data[0][n] - at) > (end - begin) / FAR;
    legend.querySelector(".moment").textContent = iso(at ?? data[0].at(-1)).slice(0, 16).replace("T", " ");
    legend.querySelectorAll("b").forEach((place, series) => {
      place.textContent = written(isFar ? null : n < 0 ? newest[series] : data[series + 1][n], unit);
    });
  }

  function legendOf(plot, chart) {
    const own = plot.closest(".chart")?.previousElementSibling;
    if (own) return own;
    const made = document.createElement("ul");
    made.className = "legend";
    made.innerHTML = `<li class="moment">${"<li><b></b>".repeat(chart.names.length)}`;
    chart.names.forEach((name, n) => made.children[n + 1].prepend(name));
    return made;
  }

  function show() {
    read();
    readout.hidden = !cursor;
    for (const plot of document.querySelectorAll(PLOTS)) {
      const chart = figuresOf(plot);
      if (!chart) continue;
      const at = cursor && chart.begin <= cursor.at && cursor.at <= chart.end ? cursor.at : null;
      const line = plot.querySelector(".cur");
      const place = share(chart, at ?? chart.begin);
      line.classList.toggle("on", at != null);
      for (const end of ["x1", "x2"]) line.setAttribute(end, plot.matches(".plot") ? `${place}%` : 10 * place);
      const legend = legendOf(plot, chart);
      fill(legend, chart, at);
      if (plot === cursor?.plot) say(plot, legend, place);
      const isChosen = cursor && plot === start?.plot;
      const ends = isChosen ? [start.at, cursor.at].map((one) => share(chart, one)) : [0, 0];
      const brush = plot.querySelector(".brush");
      brush?.setAttribute("x", `${Math.min(...ends)}%`);
      brush?.setAttribute("width", `${Math.abs(ends[1] - ends[0])}%`);
    }
    watcher.takeRecords(); // these changes are our own
  }

  function say(plot, legend, place) {
    const box = plot.getBoundingClientRect();
    readout.replaceChildren(legend.cloneNode(true));
    const x = box.left + (place / 100) * box.width;
    const { width } = readout.getBoundingClientRect();
    const isRoom = x + 14 + width < document.body.clientWidth;
    readout.style.left = `${scrollX + (isRoom ? x + 14 : Math.max(4, x - 14 - width))}px`;
    readout.style.top = `${scrollY + box.top + 24}px`;
  }

  function zoom(plot, one, other) {
    const more = Math.max(0, (LEAST_S - Math.abs(one - other)) / 2);
    const url = new URL(location.href);
    const section = plot.closest("section");
    url.searchParams.delete("span");
    url.searchParams.set("from", iso(Math.floor(Math.min(one, other) - more)));
    url.searchParams.set("to", iso(Math.ceil(Math.max(one, other) + more)));
    url.hash = section?.id || section?.getAttribute("aria-labelledby") || "";
    location.assign(url);
  }

  function look(plot, at, live = "off") {
    cursor = plot && { plot, at };
    readout.setAttribute("aria-live", live);
    show();
  }

  const listen = (name, act) => document.addEventListener(name, (event) => (read(), act(event)));

  listen("pointermove", (event) => {
    const plot = start?.x ? start.plot : event.target.closest?.(PLOTS);
    const times = plot && figuresOf(plot)?.data[0];
    const at = times && momentAt(plot, event);
    if (times) look(plot, start?.x ? at : times[nearest(times, at)]);
    else if (cursor && cursor.plot !== document.activeElement) look(null);
  });
  listen("pointerdown", (event) => {
    const plot = event.target.closest?.(".plot");
    if (!plot || event.button || event.pointerType === "touch" || !figuresOf(plot)) return;
    plot.setPointerCapture(event.pointerId);
    start = { plot, at: momentAt(plot, event), x: event.clientX };
  });
  for (const name of ["pointerup", "pointercancel"]) {
    listen(name, (event) => {
      if (!start?.x) return;
      const { plot, at, x } = start;
      start = null;
      if (name === "pointerup" && Math.abs(event.clientX - x) > 5) zoom(plot, at, momentAt(plot, event));
      else show();
    });
  }

  listen("keydown", (event) => {
    const plot = event.target.closest?.(".plot");
    const times = plot && figuresOf(plot)?.data[0];
    if (!times || event.ctrlKey || event.altKey || event.metaKey) return;
    const n = cursor ? nearest(times, cursor.at) : times.length;
    const to = { ArrowLeft: n - 1, ArrowRight: n + 1, Home: 0, End: times.length - 1 }[event.key];
    if (to != null) {
      const at = times[Math.min(Math.max(to, 0), times.length - 1)];
      if (!event.shiftKey) start = null;
      else if (start?.plot !== plot) start = { plot, at: cursor?.at ?? at };
      look(plot, at, "polite");
    } else if (event.key === "Enter" && start?.plot === plot) zoom(plot, start.at, cursor.at);
    else if (event.key === "Escape" && cursor) look((start = null));
    else return;
    event.preventDefault();
  });
  listen("focusout", (event) => cursor?.plot === event.target && look((start = null)));

  function cell(value) {
    const said = /^[=+\-@]/.test(value) && isNaN(value) ? `'${value}` : String(value ?? ""); // no formula
    return /[",\n]/.test(said) ? `"${said.replaceAll('"', '""')}"` : said;
  }

  function csv({ names, unit, data, band = [] }) {
    const heads = [...names, ...band.map((_, n) => `${names[0]}, ${["low", "high"][n]}`)];
    const head = ["time", ...heads.map((one) => (unit ? `${one} (${unit})` : one))];
    const rows = data[0].map((at, n) => [iso(at), ...[...data.slice(1), ...band].map((one) => one[n])]);
    return [head, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
  }

  listen("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const { chart } = button.closest("figure").dataset;
    await navigator.clipboard.writeText(csv(charts.get(chart)));
    clearTimeout(fade);
    fade = setTimeout(() => {
      copied = "";
      name();
    }, COPIED_MS);
    copied = chart;
    name();
  });

  function name() {
    for (const button of document.querySelectorAll("[data-copy]")) {
      const said = button.closest("figure").dataset.chart === copied ? "Copied" : "Copy as CSV";
      if (button.firstChild.data !== said) button.firstChild.data = said;
    }
    watcher.takeRecords();
  }

  // news puts back what the server drew
  const watcher = new MutationObserver(() => {
    if (cursor) show();
    if (copied) name();
  });
  watcher.observe(document.body, { childList: true, subtree: true, characterData: true, attributeFilter: ["d", "x1"] });
})();
