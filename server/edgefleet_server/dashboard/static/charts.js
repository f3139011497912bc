// Says the figures of the moment that is pointed at. The charts themselves are drawn by the server and need no script.
"use strict";
(() => {
  const holder = document.getElementById("chart-data");
  const charts = document.getElementById("charts");
  if (!holder || !charts) return;
  const written = (value, unit) => (value == null ? "–" : `${value.toLocaleString("en", { maximumSignificantDigits: 4 })}${unit ? ` ${unit}` : ""}`);
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
    figure.querySelector(".legend-at").textContent = moment(data[0][n]);
    figure.querySelectorAll(".legend b").forEach((place, series) => (place.textContent = written(data[series + 1][n], unit)));
  }

  charts.addEventListener("pointermove", (event) => {
    const area = event.target.closest(".area");
    if (!area) return;
    const figure = area.closest("figure");
    const times = figuresOf(figure.dataset.chart).data[0];
    const box = area.getBoundingClientRect();
    const span = times.at(-1) - times[0] || 1;
    const at = times[0] + ((event.clientX - box.left) / box.width) * span;
    const n = times.reduce((best, one, place) => (Math.abs(one - at) < Math.abs(times[best] - at) ? place : best), 0);
    const cursor = area.querySelector(".cursor");
    const x = `${times.length > 1 ? (100 * (times[n] - times[0])) / span : 50}%`;
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
    say(figure, figuresOf(figure.dataset.chart).data[0].length - 1);
  });
})();
