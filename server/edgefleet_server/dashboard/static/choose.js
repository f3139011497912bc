// A box that ticks all devices of the page. Without this script each is ticked by itself.
"use strict";
(() => {
  const place = document.getElementById("tick-all");
  const boxes = [...document.querySelectorAll("input.tick")];
  if (!place || boxes.length < 2) return;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.className = "tick";
  all.setAttribute("aria-label", `Tick all ${boxes.length}`);
  place.append(all);

  function look() {
    const ticked = boxes.filter((one) => one.checked).length;
    all.checked = ticked === boxes.length;
    all.indeterminate = ticked > 0 && ticked < boxes.length;
  }

  all.addEventListener("change", () => {
    for (const one of boxes) one.checked = all.checked;
    look();
  });
  for (const one of boxes) one.addEventListener("change", look);
  look();
})();
