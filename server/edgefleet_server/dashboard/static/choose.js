// Selecting rows: a box that ticks all of a page, and buttons that rest while nothing is ticked.
// Without this script each box is ticked by itself, and the server says when nothing was.
"use strict";
(() => {
  const place = document.getElementById("tick-all");
  const boxes = [...document.querySelectorAll("input.tick")];
  if (!place || boxes.length < 2) return;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.className = "tick";
  all.setAttribute("aria-label", `Select all ${boxes.length}`);
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
for (const form of document.querySelectorAll("form[data-picks]")) {
  const count = form.querySelector("[data-picked]");

  function look() {
    const all = form.querySelector('input[name="all"]:checked');
    const picked = form.querySelectorAll(`input[name="${CSS.escape(form.dataset.picks)}"]:checked`).length;
    for (const button of form.querySelectorAll("button[data-for-picked]")) button.disabled = !all && !picked;
    const said = all ? "All matching devices selected." : picked ? `${picked} selected.` : "None selected.";
    if (count && count.textContent !== said) count.textContent = said;
  }

  form.addEventListener("change", look);
  addEventListener("pageshow", look); // back from the next page, a browser ticks again what was ticked
  new MutationObserver(look).observe(form, { childList: true, subtree: true }); // live updates take rows away
  look();
}
