// Says the figures of the moment that is pointed at. The charts themselves are drawn by the server and need no script.
"use strict";
(() => {
  const holder = document.getElementById("chart-data");
  const charts = document.getElementById("charts");
  if (!holder || !charts) return;
  const digits = (value) => (Math.abs(value) < 1000 ? { maximumSignificantDigits: 4 } : { maximumFractionDigits: 0 });
  const number = (value) => value.toLocaleString("en", digits(value)).replaceAll(",", "\u202f");
  const written = (value, unit) => (value == null ? "–" : `${number(value)}${unit ? ` ${unit}` : ""}`);
  let known = { text: "", charts: [] };

  function figuresOf(id) {
    const text = holder.querySelector("script").textContent;
    if (text !== known.text) known = { text, charts: JSON.parse(text).charts };
    return known.charts.find((one) => one.id === id);
  }

  // in UTC, as everywhere on our pages
  const moment = (ts) => new Date(ts * 1000).toISOString().slice(0, 16).replace("T", " ");

  function say(figure, n) {
    const { data, unit } = figuresOf(figure.dataset.chart);
    const last = n == null ? (column) => column.findLast((one) => one != null) : (column) => column[n];
    figure.querySelector(".legend-at").textContent = moment(n == null ? data[0].at(-1) : data[0][n]);
    figure.querySelectorAll(".legend b").forEach((place, series) => (place.textContent = written(last(data[series + 1]), unit)));
  }

  charts.addEventListener("pointermove", (event) => {
    const area = event.target.closest(".area");
    if (!area) return;
    const figure = area.closest("figure");
    const { data, begin, end } = figuresOf(figure.dataset.chart);
    const times = data[0];
    const box = area.getBoundingClientRect();
    const span = end - begin || 1;
    const at = begin + ((event.clientX - box.left) / box.width) * span;
    const n = times.reduce((best, one, place) => (Math.abs(one - at) < Math.abs(times[best] - at) ? place : best), 0);
    const cursor = area.querySelector(".cursor");
    const x = `${end > begin ? (100 * (times[n] - begin)) / span : 50}%`;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.classList.add("on");
    say(figure, n);
  });
  charts.addEventListener("pointerout", (event) => {
    const area = event.target.closest(".area");
    if (!area || area.contains(event.relatedTarget)) return;
    area.querySelector(".cursor").classList.remove("on");
    const figure = area.closest("figure");
    say(figure, null);
  });
})();
