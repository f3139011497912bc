// Draws the charts of a page from the figures in #chart-data, and again when live updates bring new ones.
// Without this script the same figures stand in the tables below.
"use strict";
(() => {
  const holder = document.getElementById("chart-data");
  if (!holder || typeof uPlot === "undefined") return;
  const TONES = ["--chart-1", "--chart-2", "--chart-3"];
  const DASHES = [[], [6, 3], [2, 3]];
  const HEIGHT = 170;
  const drawn = new Map();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const written = (value, unit) => (value == null ? "–" : `${value.toLocaleString("en", { maximumFractionDigits: 2 })}${unit ? ` ${unit}` : ""}`);

  function axis(extra) {
    return { stroke: token("--dim"), grid: { stroke: token("--line"), width: 1 }, ticks: { stroke: token("--line"), width: 1 }, font: "12px system-ui", ...extra };
  }

  // in UTC, as everywhere on our pages: days where ticks are days apart, else hours and minutes
  function moments(_plot, ticks, _axis, _space, step) {
    return ticks.map((one) => (step >= 86400 ? new Date(one * 1000).toISOString().slice(5, 10) : new Date(one * 1000).toISOString().slice(11, 16)));
  }

  function options(chart, width) {
    return {
      width,
      height: HEIGHT,
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
      cursor: { y: false },
      legend: { live: true },
      scales: { y: { range: (_plot, _low, high) => [0, high > 0 ? high * 1.08 : 1] } },
      axes: [axis({ space: 64, values: moments }), axis({ size: 56, values: (_plot, ticks) => ticks.map((one) => written(one, "")) })],
      series: [
        { label: "UTC", value: (_plot, ts) => (ts == null ? "–" : new Date(ts * 1000).toISOString().slice(0, 16).replace("T", " ")) },
        ...chart.names.map((label, n) => ({
          label,
          stroke: token(TONES[n]),
          dash: DASHES[n],
          width: 1.5,
          spanGaps: false,
          points: { show: chart.data[0].length < 60 },
          value: (_plot, value) => written(value, chart.unit),
        })),
      ],
    };
  }

  function draw(isForced) {
    const data = JSON.parse(holder.querySelector("script").textContent);
    for (const chart of data.charts) {
      const place = document.querySelector(`[data-chart="${CSS.escape(chart.id)}"] .plot`);
      if (!place) continue;
      const known = drawn.get(chart.id);
      if (known && !isForced && known.names === chart.names.join()) {
        known.plot.setData(chart.data);
        continue;
      }
      known?.plot.destroy();
      drawn.set(chart.id, { names: chart.names.join(), plot: new uPlot(options(chart, place.clientWidth), chart.data, place) });
    }
  }

  draw(false);
  new MutationObserver(() => draw(false)).observe(holder, { childList: true, subtree: true, characterData: true });
  dark.addEventListener("change", () => draw(true));
  new ResizeObserver(() => {
    for (const [id, { plot }] of drawn) {
      const width = document.querySelector(`[data-chart="${CSS.escape(id)}"] .plot`)?.clientWidth;
      if (width && width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  }).observe(document.querySelector(".charts"));
})();
