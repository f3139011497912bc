// The search box of all pages as a palette: "/" or Ctrl-K goes there, arrows walk through what was found, Escape closes.
// Without scripts the box is a form.
"use strict";
(() => {
  const box = document.getElementById("find");
  const list = document.getElementById("found");
  if (!box || !list) return;

  const isTyping = (one) => one instanceof HTMLElement && (one.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(one.tagName));
  const links = () => [...list.querySelectorAll("a")];

  function close() {
    list.replaceChildren();
  }

  document.addEventListener("keydown", (event) => {
    const asked = (event.key === "/" && !isTyping(event.target)) || (event.key === "k" && (event.ctrlKey || event.metaKey));
    if (asked && !event.altKey) {
      event.preventDefault();
      box.focus();
      box.select();
    } else if (event.key === "Escape" && (document.activeElement === box || list.contains(document.activeElement))) {
      close();
      box.focus();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (document.activeElement === box || list.contains(document.activeElement))) {
      const all = [box, ...links()];
      if (all.length < 2) return;
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : all.length - 1;
      all[(all.indexOf(document.activeElement) + step) % all.length].focus();
    }
  });
  document.addEventListener("click", (event) => {
    if (!list.contains(event.target) && event.target !== box) close();
  });
})();
