// A field for a selector offers terms also after a comma. Without this script it offers the first one.
"use strict";
document.addEventListener("input", ({ target }) => {
  const list = target.list;
  if (list?.id !== "pick-selectors") return;
  const before = target.value.slice(0, target.value.lastIndexOf(",") + 1);
  for (const option of list.options) {
    option.dataset.term ??= option.value;
    option.value = before + option.dataset.term;
  }
});
